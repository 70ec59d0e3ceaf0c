"""Checkpoints of one peer: atomic, incremental, exact (docs/concepts.md, "State").

    STATE_DIR/lock                                        see decad.state.lock
    STATE_DIR/manifest.json                               what belongs together; replaced as a whole
    STATE_DIR/blocks/<index>-<sha16>.safetensors          one tensor, "block"; one file a block
    STATE_DIR/active-<step>-<sha16>.safetensors           master copy, moments, ...

A file that a manifest on the disk may refer to is never changed: its name carries the hash of its contents.
The order of one save: tensor files, forced to the disk under a temporary name; their renames; the directories
forced to the disk; the manifest likewise; and only then the removal of what no manifest needs. So at any
instant, and whatever a power cut undoes, the disk holds the old checkpoint or the new one.

Synchronous: it runs on the io thread, and uses none of torch's threads.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from decad.errors import InternalError, StateError
from decad.state.files import hash_file, make_directory, sync_directory, write_file
from decad.state.lock import reading, sweeping
from decad.state.manifest import ActiveRecord, BlockRecord, FileRecord, Manifest, RunRecord, damaged
from decad.state.tensors import read_tensors, serialise

MANIFEST = "manifest.json"
BLOCKS = "blocks"
_TEMPORARY = "incoming.tmp"
_OURS = re.compile(rf"(\d+|active-\d+)-[0-9a-f]{{16}}\.safetensors|{re.escape(_TEMPORARY)}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class TrainedBlock:
    """An inactive block that changed since the last save."""

    values: Tensor
    """[n], fp32 or the load dtype, in host memory; saved bit for bit."""
    phase: int
    """The phase in which it was trained here or fetched."""


@dataclass(frozen=True)
class ActiveState:
    """The active block, between two steps of its phase."""

    block: int
    """Its index."""
    updates: int
    """Local updates since the phase began (`AdamState.updates`)."""
    sequence: int
    """Number of the last message of this phase (`Encoder.sequence`)."""
    tensors: Mapping[str, Tensor]
    """`MASTER`, moments, public copy, by name; in host memory."""


@dataclass(frozen=True)
class Snapshot:
    """What `CheckpointStore.save` writes. No tensor may change before it returns."""

    run: RunRecord
    blocks: Mapping[int, TrainedBlock] = field(default_factory=dict)
    """The blocks that changed since the last save that succeeded, by index."""
    active: ActiveState | None = None
    """None between phases."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the disk whose hashes were checked. Tensors are read when asked for."""

    directory: Path
    manifest: Manifest

    @property
    def run(self) -> RunRecord:
        """The small part: spec, step, position in the data, ..."""
        return self.manifest.run

    @property
    def phases(self) -> dict[int, int]:
        """Block index -> the last phase in which it was trained or fetched; untrained blocks are absent."""
        return {index: record.phase for index, record in self.manifest.blocks.items()}

    def block(self, index: int) -> Tensor:
        """The values [n] of a block in `phases`, in its saved dtype. Raises StateError."""
        return self._read(self.manifest.blocks[index])["block"]

    def active(self) -> ActiveState | None:
        """The active block; None between phases. Raises StateError."""
        record = self.manifest.active
        if record is None:
            return None
        return ActiveState(record.block, record.updates, record.sequence, self._read(record))

    def verify(self) -> None:
        """Raises StateError naming the first file that is missing or does not match its hash."""
        for record in self.manifest.tensor_files:
            path = self.directory / record.file
            try:
                found = hash_file(path)
            except FileNotFoundError:
                raise damaged(path, "the file is missing") from None
            except OSError as error:
                raise _unreadable(path, error) from None
            if found != record.sha256:
                raise damaged(path, "its contents do not match the manifest's hash")

    def _read(self, record: FileRecord) -> dict[str, Tensor]:
        path = self.directory / record.file
        try:
            return read_tensors(path)
        except OSError as error:
            raise _unreadable(path, error) from None


class CheckpointStore:
    """Reads and writes the checkpoint of the one daemon that holds the directory's `StateLock`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._current: dict[int, BlockRecord] | None = None
        # Every file that the manifest on the disk may refer to, whichever manifest that is after a power cut.
        self._needed: frozenset[str] = frozenset()

    def load(self) -> Checkpoint | None:
        """The current checkpoint, or None if there is none yet. Call it once, before the first save.

        Checks every hash, then removes what an interrupted save left behind. Raises StateError, saying which
        file is damaged and what to do; it then removes nothing.
        """
        checkpoint = _load(self.directory)
        self._current = dict(checkpoint.manifest.blocks) if checkpoint else {}
        self._needed = checkpoint.manifest.needed if checkpoint else frozenset()
        self._sweep()
        return checkpoint

    def save(self, snapshot: Snapshot) -> None:
        """Make ``snapshot`` the current checkpoint, durably; blocks it does not name stay as saved before.

        Raises StateError if the disk is full or cannot be written. The previous checkpoint is then still
        there, and the next snapshot must again name the blocks that this one named.
        """
        if self._current is None:
            raise InternalError("CheckpointStore.save before load: the blocks on the disk would be lost")
        try:
            make_directory(self.directory / BLOCKS)
            manifest = self._write_tensors(snapshot, self._current)
            self._commit(manifest)
        except OSError as error:
            self._sweep()
            raise _unwritable(self.directory, error) from None
        self._current = dict(manifest.blocks)
        self._needed = manifest.needed
        self._sweep()

    def _write_tensors(self, snapshot: Snapshot, current: Mapping[int, BlockRecord]) -> Manifest:
        blocks = dict(current)
        for index, block in snapshot.blocks.items():
            written = self._write(f"{BLOCKS}/{index}", {"block": block.values})
            dtype = str(block.values.dtype).removeprefix("torch.")
            blocks[index] = BlockRecord(**written, dtype=dtype, phase=block.phase)
        active = None
        if (held := snapshot.active) is not None:
            written = self._write(f"active-{snapshot.run.step}", held.tensors)
            active = ActiveRecord(**written, block=held.block, updates=held.updates, sequence=held.sequence)
        sync_directory(self.directory / BLOCKS)
        sync_directory(self.directory)
        return Manifest(run=snapshot.run, blocks=blocks, active=active)

    def _write(self, stem: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Write one file under the name that its contents give it; returns the fields of its `FileRecord`."""
        temporary = (self.directory / stem).parent / _TEMPORARY
        sha256 = write_file(temporary, serialise(tensors))
        name = f"{stem}-{sha256[:16]}.safetensors"
        size = temporary.stat().st_size
        os.replace(temporary, self.directory / name)
        return {"file": name, "sha256": sha256, "size": size}

    def _commit(self, manifest: Manifest) -> None:
        write_file(self.directory / _TEMPORARY, [manifest.encode()])
        self._needed |= manifest.needed
        os.replace(self.directory / _TEMPORARY, self.directory / MANIFEST)
        sync_directory(self.directory)

    def _sweep(self) -> None:
        """Remove files of ours that no manifest needs. What cannot be removed now is removed another time."""
        with suppress(OSError), sweeping(self.directory) as free:
            if not free:
                return
            for folder in (self.directory, self.directory / BLOCKS):
                for path in folder.iterdir():
                    name = path.relative_to(self.directory).as_posix()
                    if _OURS.fullmatch(path.name) and name not in self._needed:
                        path.unlink()


@contextmanager
def open_checkpoint(directory: Path) -> Iterator[Checkpoint | None]:
    """The current checkpoint, or None, for a process that is not the daemon, such as ``decad export``.

    A daemon may go on saving meanwhile: none of the files is removed while the context lasts.
    Raises StateError as `CheckpointStore.load` does.
    """
    if not directory.is_dir():
        yield None
        return
    with reading(directory):
        yield _load(directory)


def _load(directory: Path) -> Checkpoint | None:
    path = directory / MANIFEST
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    checkpoint = Checkpoint(directory, Manifest.decode(data, path))
    checkpoint.verify()
    return checkpoint


def _unreadable(path: Path, error: OSError) -> StateError:
    return StateError(f"{path} cannot be read: {error.strerror}. Check the disk and the owner of the file.")


def _unwritable(directory: Path, error: OSError) -> StateError:
    remedy = "Free some space there" if error.errno in _FULL else "Make it writable for this user"
    return StateError(
        f"The checkpoint could not be saved in {directory}: {error.strerror}. The previous checkpoint is "
        f"untouched. {remedy}, or move the directory and give its new place with --state-dir."
    )
