"""Checkpoints of one peer: atomic, incremental, exact (docs/concepts.md, "State").

    STATE_DIR/lock                                        see decad.state.lock
    STATE_DIR/manifest-<serial>.json                      what belongs together; see decad.state.history
    STATE_DIR/blocks/<index>-<sha16>.safetensors          one tensor, "block"; one file a block
    STATE_DIR/active-<step>-<sha16>.safetensors           master copy, moments, ...
    STATE_DIR/adapters-<step>-<sha16>.safetensors         values and moments, in runs with adapters

A file that a manifest on the disk may refer to is never changed: its name carries the hash of its contents.
The order of one save: tensor files, forced to the disk under a temporary name; their renames; the directories
forced to the disk; the manifest likewise; and only then the removal of what the last two manifests do not
need. So at any instant, and whatever a power cut undoes, the old checkpoint is there, or the new one. Should the
newest turn out to be damaged one day, the one before it is whole.

Synchronous: it runs on the io thread, and uses none of torch's threads.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from decad.errors import InternalError, StateError
from decad.state.files import make_directory, sync_directory, write_file
from decad.state.history import MANIFEST_NAME, TEMPORARY, checkpoints, commit, current, manifest_path
from decad.state.lock import reading, sweeping
from decad.state.manifest import ActiveRecord, AdapterRecord, BlockRecord, FileRecord, Manifest, RunRecord
from decad.state.tensors import read_tensors, serialise

BLOCKS = "blocks"
_TENSORS_NAME = re.compile(r"(\d+|active-\d+|adapters-\d+)-[0-9a-f]{16}\.safetensors")
RETAINED = 2
"""Checkpoints on the disk: the current one, and the one before."""
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
class AdapterState:
    """The adapters after a step."""

    block: int
    """Their index, as of the block after the last."""
    phase: int
    """In which they were trained last, here or by the peer that they were fetched from; -1: none."""
    updates: int
    """Local updates since the run began here."""
    tensors: Mapping[str, Tensor]
    """block, m, v: fp32 [a] in host memory."""


@dataclass(frozen=True)
class Snapshot:
    """What `CheckpointStore.save` writes. No tensor may change before it returns."""

    run: RunRecord
    blocks: Mapping[int, TrainedBlock] = field(default_factory=dict)
    """The blocks that changed since the last save that succeeded, by index."""
    active: ActiveState | None = None
    """None between phases."""
    adapters: AdapterState | None = None
    """None in a run without them."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the disk whose hashes were checked. Tensors are read when asked for."""

    directory: Path
    manifest: Manifest
    lost: str = ""
    """What to tell the operator: a newer one is damaged. Empty if this is the newest."""

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

    def adapters(self) -> AdapterState | None:
        """The adapters; None if there were none. Raises StateError."""
        record = self.manifest.adapters
        if record is None:
            return None
        return AdapterState(record.block, record.phase, record.updates, self._read(record))

    def _read(self, record: FileRecord) -> dict[str, Tensor]:
        path = self.directory / record.file
        try:
            return read_tensors(path)
        except (OSError, SafetensorError) as error:
            raise StateError(
                f"{path} cannot be read: {getattr(error, 'strerror', None) or error}. Check the disk and the "
                "owner of the file."
            ) from None


class CheckpointStore:
    """Reads and writes the checkpoints of the one daemon that holds the directory's `StateLock`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._loaded = False
        self._current: tuple[int, Manifest] | None = None
        """Serial and manifest of the newest checkpoint that is known to be whole."""
        self._serial = 0
        """The highest that was given."""
        self._kept: dict[int, frozenset[str]] = {}
        """Serial -> tensor files, of every manifest that the disk may hold and that is to stay there."""

    def load(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None if there is none yet. Call it once, before the first save.

        Checks every hash, then removes what an interrupted save left behind. It removes nothing if a file is
        damaged. Raises StateError, saying which one and what to do, if no checkpoint is whole.
        """
        found = current(self.directory)
        stored = checkpoints(self.directory)
        self._loaded = True
        self._serial = stored[0].serial if stored else 0
        if found is None:
            self._sweep()
            return None
        self._current = (found.stored.serial, found.manifest)
        if not found.lost:
            self._kept = {s.serial: s.manifest.needed for s in stored[:RETAINED] if s.manifest is not None}
            self._sweep()
        return Checkpoint(self.directory, found.manifest, found.lost)

    def save(self, snapshot: Snapshot) -> None:
        """Make ``snapshot`` the current checkpoint, durably; blocks it does not name stay as saved before.

        The one before it is kept too. Raises StateError if the disk is full or cannot be written. The previous
        checkpoint is then still there, and the next snapshot must again name the blocks that this one named.
        """
        if not self._loaded:
            raise InternalError("CheckpointStore.save before load: the blocks on the disk would be lost")
        last = self._current
        try:
            make_directory(self.directory / BLOCKS)
            manifest = self._write_tensors(snapshot, last[1].blocks if last else {})
            self._serial += 1
            self._kept[self._serial] = manifest.needed
            commit(self.directory, manifest, self._serial)
        except OSError as error:
            if self._kept:  # else damaged files lie there, to be kept until a checkpoint is whole
                self._sweep()
            raise _unwritable(self.directory, snapshot.run.step, error) from None
        self._current = (self._serial, manifest)
        self._kept = {
            serial: manifest.needed for serial, manifest in (*([last] if last else []), self._current)
        }
        self._sweep()

    def _write_tensors(self, snapshot: Snapshot, saved: Mapping[int, BlockRecord]) -> Manifest:
        blocks = dict(saved)
        for index, block in snapshot.blocks.items():
            written = self._write(f"{BLOCKS}/{index}", {"block": block.values})
            dtype = str(block.values.dtype).removeprefix("torch.")
            blocks[index] = BlockRecord(**written, dtype=dtype, phase=block.phase)
        active = None
        if (held := snapshot.active) is not None:
            written = self._write(f"active-{snapshot.run.step}", held.tensors)
            active = ActiveRecord(**written, block=held.block, updates=held.updates, sequence=held.sequence)
        adapters = None
        if (beside := snapshot.adapters) is not None:
            written = self._write(f"adapters-{snapshot.run.step}", beside.tensors)
            adapters = AdapterRecord(
                **written, block=beside.block, phase=beside.phase, updates=beside.updates
            )
        sync_directory(self.directory / BLOCKS)
        sync_directory(self.directory)
        return Manifest(saved=time.time(), run=snapshot.run, blocks=blocks, active=active, adapters=adapters)

    def _write(self, stem: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Write one file under the name that its contents give it; returns the fields of its `FileRecord`."""
        temporary = (self.directory / stem).parent / TEMPORARY
        sha256 = write_file(temporary, serialise(tensors))
        name = f"{stem}-{sha256[:16]}.safetensors"
        size = temporary.stat().st_size
        os.replace(temporary, self.directory / name)
        return {"file": name, "sha256": sha256, "size": size}

    def _sweep(self) -> None:
        """Remove what is not kept. What cannot be removed now is removed another time."""
        kept = {manifest_path(self.directory, serial) for serial in self._kept}
        kept |= {self.directory / file for files in self._kept.values() for file in files}
        with suppress(OSError), sweeping(self.directory) as free:
            if not free:
                return
            # Manifests first: a checkpoint must not be left with half of its files.
            for ours, folder in (
                (MANIFEST_NAME, self.directory),
                (_TENSORS_NAME, self.directory),
                (_TENSORS_NAME, self.directory / BLOCKS),
            ):
                for path in folder.iterdir():
                    if path not in kept and (ours.fullmatch(path.name) or path.name == TEMPORARY):
                        path.unlink()


@contextmanager
def open_checkpoint(directory: Path) -> Iterator[Checkpoint | None]:
    """The newest checkpoint that is whole, or None, for a process that is not the daemon, as ``decad export``.

    A daemon may go on saving meanwhile: none of the files is removed while the context lasts.
    Raises StateError as `CheckpointStore.load` does.
    """
    if not directory.is_dir():
        yield None
        return
    with reading(directory):
        found = current(directory)
        yield Checkpoint(directory, found.manifest, found.lost) if found else None


def _unwritable(directory: Path, step: int, error: OSError) -> StateError:
    remedy = "Free some space there" if error.errno in _FULL else "Make it writable for this user"
    return StateError(
        f"The checkpoint of step {step} could not be saved in {directory}: {error.strerror}. The previous "
        f"checkpoint is untouched. {remedy}, or move the directory and give its new place with --state-dir."
    )
