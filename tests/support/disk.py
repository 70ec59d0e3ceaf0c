"""A disk that loses power: it stops the program before an operation and undoes what was not yet durable."""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest


class PowerCut(BaseException):
    """Not an Exception, so that no handler mistakes it for an error that the program lives to see."""


class Loss(enum.Enum):
    """What the disk forgets. Whatever was synced stays; a file system may keep any of the rest."""

    NOTHING = "the process was killed"
    DATA = "contents not synced are cut in half"
    NAMES = "names not synced are back to what they were"
    NAMES_BUT_THE_LAST = "only the newest of the names not synced stayed"


class Disk:
    """Stands between the program and ``os`` for files below ``root``.

    Before operation number ``fail_at`` (from 0) it raises ``failure``, or does what a subclass does in `fail`;
    ``count`` tells how many there were.
    Removals are never undone: that is the worst case for whoever removes too early.
    """

    def __init__(self, root: Path, fail_at: int = -1, failure: BaseException | None = None) -> None:
        self.root, self.fail_at, self.failure = root, fail_at, failure or PowerCut()
        self.count = 0
        self.done: list[str] = []
        self._paths: dict[int, Path] = {}
        self._unsynced: set[Path] = set()
        self._renames: list[tuple[Path, Path, bytes | None]] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take over the operations of ``os`` that change a disk."""
        for name in ("open", "write", "fsync", "replace", "unlink", "mkdir"):
            monkeypatch.setattr(os, name, self._between(name, getattr(os, name)))

    def fail(self) -> NoReturn:
        """The operation that fails; half of a write is done."""
        raise self.failure

    def lose(self, loss: Loss) -> None:
        """What is on the disk after power comes back. Call it with ``os`` as it was."""
        if loss is Loss.DATA:
            for path in self._unsynced:
                if path.exists():
                    os.truncate(path, path.stat().st_size // 2)
        renames = {Loss.NAMES: self._renames, Loss.NAMES_BUT_THE_LAST: self._renames[:-1]}.get(loss, [])
        for source, target, before in reversed(renames):
            os.replace(target, source)
            if before is not None:
                target.write_bytes(before)

    def _between(self, name: str, real: Any) -> Any:
        def operation(*args: Any, **kwargs: Any) -> Any:
            path = self._paths.get(args[0]) if isinstance(args[0], int) else Path(args[0])
            if path is None or not path.is_relative_to(self.root):
                return real(*args, **kwargs)
            self.count += 1
            if self.count - 1 == self.fail_at:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                self.fail()
            if name == "replace":
                target = Path(args[1])
                self._renames.append((path, target, target.read_bytes() if target.exists() else None))
                self._unsynced = {target if p == path else p for p in self._unsynced}
            elif name == "write":
                self._unsynced.add(path)
            elif name == "fsync":
                self._unsynced.discard(path)
                self._renames = [r for r in self._renames if r[1].parent != path]
            self.done.append(f"{name} {path.relative_to(self.root)}")
            if name == "fsync":
                return None
            result = real(*args, **kwargs)
            if name == "open":
                self._paths[result] = path
            return result

        return operation
