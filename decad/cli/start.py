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

from decad.signals import ends_with_terminal, stopping_signals


def start_daemon(flags: Mapping[str, Any], config: Path | None, debug: bool) -> None:
    """Run until done or stopped. Raises DecadError."""
    for number in stopping_signals():
        signal.signal(number, _leave)
    # These and torch, further down, take their time to import.
    from decad.settings import load_settings
    from decad.wire.malloc import tune_malloc

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
    log = logging.getLogger("decad")
    log.info("starting")
    if ends_with_terminal(os.environ, sys.stderr.fileno()):
        log.info(
            "when this terminal closes, the daemon saves and stops; in tmux, with nohup, or as a service it goes on"
        )
    from decad.daemon.process import run_peer

    run_peer(spec, peer)


def _leave(number: int, frame: FrameType | None) -> None:
    """Stopped while modules are still being imported: nothing is open that would have to be closed."""
    os._exit(0)
