"""Who may use a state directory: one daemon at a time writes it; readers hold off its sweeping.

Both locks are flock(2): the kernel drops them with the process, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from decad.errors import StateError
from decad.state.files import make_directory


class StateLock:
    """Exclusive use of a state directory, from construction until `release` or the end of the process.

    Creates the directory. Raises StateError when another process holds it, naming that process's id, or
    when it cannot be created or written.
    """

    def __init__(self, directory: Path) -> None:
        try:
            make_directory(directory)
            self._descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(
                f"The state directory {directory} cannot be used: {error.strerror}. Make it writable for "
                "this user, or give another with --state-dir."
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            if not isinstance(error, BlockingIOError):
                raise StateError(
                    f"The state directory {directory} cannot be locked: {error.strerror}. Put it on a local "
                    "file system with --state-dir."
                ) from None
            raise StateError(
                f"The state directory {directory} is in use by the daemon with process id "
                f"{holder or 'unknown'}. Stop it with `decad stop --state-dir {directory}`, or give this one "
                "another --state-dir."
            ) from None
        # The file stays when the lock goes: removing it could take the lock from under the next holder.
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the directory up. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> StateLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Nothing that a manifest in ``directory`` refers to is removed meanwhile. Any number of readers."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def sweeping(directory: Path) -> Iterator[bool]:
    """True when nobody is `reading`, and nobody starts meanwhile; never waits."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError as error:
            # NFS has no exclusive lock on a directory. Sweep there too: a reader that loses says so.
            free = not isinstance(error, BlockingIOError)
        yield free
    finally:
        os.close(descriptor)
