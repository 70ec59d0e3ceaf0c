"""Where a peer's things are. A leaf: the command line and the daemon must agree, and status must load nothing."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

MAX_SOCKET_PATH = 100
"""Bytes of a Unix socket's path that every system takes (Linux 107, macOS 103)."""


def user_path(text: str | Path) -> Path:
    """A path as people write it: ~ is a home directory; whatever else is in it stands for itself."""
    return Path(os.path.expanduser(text))


def default_state_dir() -> Path:
    """$XDG_STATE_HOME/decad, else ~/.local/state/decad."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "decad"


def control_socket(state_dir: Path) -> Path:
    """The daemon's control socket: in the state directory, or under the runtime directory if its path is too long."""
    path = state_dir.resolve() / "control.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return runtime / f"decad-{os.getuid()}" / f"{digest}.sock"
