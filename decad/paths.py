"""Where a peer's things are. A leaf: the command line and the daemon must agree, and status must load nothing."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

MAX_SOCKET_PATH = 100
"""Bytes of a Unix socket's path that every system takes (Linux 107, macOS 103)."""


CONTROL_SOCKET = "control.sock"
"""Name of the socket within the state directory."""


def user_path(text: str | Path) -> Path:
    """A path as people write it: ~ is a home directory; whatever else is in it stands for itself."""
    return Path(os.path.expanduser(text))


def default_state_dir() -> Path:
    """$XDG_STATE_HOME/decad, else ~/.local/state/decad."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "decad"


def control_socket(state_dir: Path) -> Path:
    """The daemon's control socket: in the state directory, or under the runtime directory if its path is too long."""
    path = state_dir.resolve() / CONTROL_SOCKET
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return runtime / f"decad-{os.getuid()}" / f"{digest}.sock"


def not_private(folder: Path) -> str:
    """Why others could get at what is in ``folder``, as the end of a sentence; empty if nobody but this user can.

    Below /tmp anybody may have made it first: as a link, or as a directory of their own. Raises OSError.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return "it is no directory"
    if found.st_uid != os.getuid():
        return f"it belongs to the user with the number {found.st_uid}"
    if stat.S_IMODE(found.st_mode) & 0o022:
        return f"others can write to it (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""
