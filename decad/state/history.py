"""The checkpoints of a state directory: which there are, which of them are whole, which one is current.

    STATE_DIR/manifest-<serial>.json      one a checkpoint; the highest serial is the newest

No tensors and no torch: the command line reads this too.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from decad.errors import StateError
from decad.state.files import hash_file, sync_directory, write_file
from decad.state.lock import StateLock
from decad.state.manifest import DamagedError, Manifest, other_format

TEMPORARY = "incoming.tmp"
"""What is being written; never referred to."""
MANIFEST_NAME = re.compile(r"manifest-(\d{8})\.json")
_FIRST_FORMAT = "manifest.json"


@dataclass(frozen=True)
class Stored:
    """A checkpoint on the disk."""

    path: Path
    """Of its manifest."""
    serial: int
    manifest: Manifest | None
    """None if it cannot be read."""
    error: DamagedError | None
    """Why not."""

    @property
    def directory(self) -> Path:
        """The state directory."""
        return self.path.parent

    def damage(self, sound: set[str] | None = None) -> DamagedError | None:
        """The first file that is missing, unreadable, or of another size than it should have; None if all is well.

        ``sound``: the files that were read and have the contents that they should have. With it all the others
        are read too, and those that are well are added.
        """
        if self.manifest is None:
            return self.error
        for record in self.manifest.tensor_files:
            path = self.directory / record.file
            try:
                if (size := path.stat().st_size) != record.size:
                    return DamagedError(path, f"it has {size} bytes and should have {record.size}")
                if sound is not None and record.file not in sound:
                    if hash_file(path) != record.sha256:
                        return DamagedError(path, "its contents do not match the manifest's hash")
                    sound.add(record.file)
            except FileNotFoundError:
                return DamagedError(path, "the file is missing")
            except OSError as error:
                return DamagedError(path, f"it cannot be read: {error.strerror}")
        return None


class Current(NamedTuple):
    """The checkpoint to go on from."""

    stored: Stored
    manifest: Manifest
    lost: str
    """What to tell the operator about newer ones that are damaged; empty if there are none."""


def checkpoints(directory: Path) -> tuple[Stored, ...]:
    """All checkpoints of a state directory, the newest first. Raises StateError for another format."""
    try:
        names = sorted((p.name for p in directory.iterdir()), reverse=True) if directory.is_dir() else []
    except OSError as error:
        raise StateError(
            f"The state directory {directory} cannot be read: {error.strerror}. Check who owns it."
        ) from None
    found = tuple(
        _read(directory / name, int(match[1])) for name in names if (match := MANIFEST_NAME.fullmatch(name))
    )
    if not found and _FIRST_FORMAT in names:
        raise other_format(directory / _FIRST_FORMAT, 1)
    return found


def current(directory: Path) -> Current | None:
    """The newest checkpoint that is whole, every byte checked; None if there is none at all.

    Raises StateError when all are damaged, or when one has another format.
    """
    sound: set[str] = set()
    damaged: list[tuple[Stored, DamagedError]] = []
    for stored in checkpoints(directory):
        error = stored.damage(sound)
        if error is None and stored.manifest is not None:
            return Current(stored, stored.manifest, _lost(damaged, stored.manifest.run.step))
        if error is not None:
            damaged.append((stored, error))
    if damaged:
        raise damaged[0][1]
    return None


def commit(directory: Path, manifest: Manifest, serial: int) -> None:
    """Make ``manifest`` the newest checkpoint, durably. What it names is on the disk. Raises OSError."""
    write_file(directory / TEMPORARY, [manifest.encode()])
    os.replace(directory / TEMPORARY, manifest_path(directory, serial))
    sync_directory(directory)


def manifest_path(directory: Path, serial: int) -> Path:
    """Where the manifest with this number is."""
    return directory / f"manifest-{serial:08}.json"


def restore(directory: Path, step: int) -> None:
    """Make the checkpoint of ``step`` the newest; the others stay until the next save.

    Raises StateError when there is none, when it is damaged, or when a daemon uses the directory.
    """
    if not directory.is_dir():
        raise StateError(f"There is no state directory {directory}. Name another one with --state-dir.")
    with StateLock(directory):
        stored = checkpoints(directory)
        chosen = next((s for s in stored if s.manifest is not None and s.manifest.run.step == step), None)
        if chosen is None or chosen.manifest is None:
            steps = ", ".join(str(s.manifest.run.step) for s in stored if s.manifest is not None)
            raise StateError(
                f"There is no checkpoint of step {step} in {directory}. "
                + (f"There are those of: {steps}." if steps else "There are none at all.")
            )
        if (damage := chosen.damage(set())) is not None:
            raise damage
        if chosen is stored[0]:
            return
        try:
            commit(directory, chosen.manifest, stored[0].serial + 1)
            chosen.path.unlink()
            sync_directory(directory)
        except OSError as error:
            raise StateError(
                f"The checkpoint of step {step} could not be restored in {directory}: {error.strerror}."
            ) from None


def _read(path: Path, serial: int) -> Stored:
    try:
        return Stored(path, serial, Manifest.decode(path.read_bytes(), path), None)
    except OSError as error:
        return Stored(path, serial, None, DamagedError(path, f"it cannot be read: {error.strerror}"))
    except DamagedError as error:
        return Stored(path, serial, None, error)


def _lost(damaged: list[tuple[Stored, DamagedError]], step: int) -> str:
    if not damaged:
        return ""
    stored, error = damaged[0]
    newest = stored.manifest.run.step if stored.manifest is not None else None
    which = "The newest checkpoint" if newest is None else f"The checkpoint of step {newest}"
    much = "what was trained since is lost" if newest is None else f"{newest - step} steps are lost"
    return (
        f"{which} is damaged: {error.path}: {error.what}. The one before is used, of step {step}: {much}. The damaged "
        "files stay until the next checkpoint is saved. Check the disk."
    )
