"""`decad start`: settings, logging, and the daemon in the foreground."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from decad.config import load_settings
from decad.wire.malloc import tune_malloc


def start_daemon(flags: Mapping[str, Any], config: Path | None, debug: bool) -> None:
    """Run until done or stopped. Raises DecadError."""
    spec, peer = load_settings(flags, config)
    # Before torch and grpc start their threads.
    tune_malloc()
    logging.basicConfig(
        stream=sys.stderr,
        format="%(asctime)s %(message)s" if not debug else "%(asctime)s %(name)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        level=logging.WARNING,
    )
    logging.getLogger("decad").setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug:  # what grpc's core has to say, decad says in words of its own
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    logging.getLogger("decad").info("starting")
    # torch takes seconds to import.
    from decad.daemon.process import run_peer

    run_peer(spec, peer)


def _leave(number: int, frame: FrameType | None) -> None:
    """Stopped while modules are still being imported: nothing is open that would have to be closed."""
    os._exit(0)
