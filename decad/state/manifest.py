"""The manifest: the one file whose appearance makes a checkpoint the newest one.

It holds every small thing by value and every tensor by the name and hash of its file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from decad.errors import StateError

FORMAT = 2
"""Of the state directory. Another one is refused, never guessed at."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class KnownPeer(BaseModel):
    """Where a peer was met: a hint for the next start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str
    """host:port."""
    peer_id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class RunRecord(BaseModel):
    """The small part of a checkpoint: where the run stands."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    """Of the run spec (`RunSpec.fingerprint`)."""
    spec: str
    """The run spec as canonical JSON (`RunSpec.canonical`)."""
    set_fields: tuple[str, ...]
    """The fields of the spec that the operator set; the others were defaults or adopted from a peer."""
    step: Annotated[int, Field(ge=0)]
    """The next step that this peer will take."""
    end: Annotated[int, Field(ge=0)] = 0
    """The step before which the training ends, where an operator had it end early; 0 where nobody did."""
    data: dict[str, Any]
    """Position in the data, as JSON."""
    apart: dict[int, float] = {}
    """Block -> how far from this peer's, relative to it, the furthest neighbour's was when it was last mixed."""
    peers: tuple[KnownPeer, ...] = ()
    """To be dialled at the next start."""


class FileRecord(BaseModel):
    """A file of tensors that belongs to the checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Annotated[str, Field(pattern=r"^(blocks/\d+|active-\d+|adapters-\d+)-[0-9a-f]{16}\.safetensors$")]
    """Its path below the state directory."""
    size: Annotated[int, Field(ge=0)]
    """In bytes."""
    sha256: Sha256
    """Of the file's bytes."""


class BlockRecord(FileRecord):
    """One inactive block."""

    dtype: str
    """In which it is held and saved, as torch names it: float32, bfloat16."""
    phase: Annotated[int, Field(ge=-1)]
    """The last phase in which this block was trained, here or by the peer it was fetched from; -1: none."""


class ActiveRecord(FileRecord):
    """The active block, in the middle of its phase."""

    block: Annotated[int, Field(ge=0)]
    """Its index."""
    updates: Annotated[int, Field(ge=0)]
    """Local updates since its phase began (`AdamState.updates`)."""
    sequence: Annotated[int, Field(ge=-1)]
    """Number of the last message of this phase (`Encoder.sequence`)."""


class AdapterRecord(FileRecord):
    """The adapters, after the step before."""

    block: Annotated[int, Field(ge=1)]
    """Their index, as of the block after the last."""
    phase: Annotated[int, Field(ge=-1)]
    """In which they were trained last, here or by the peer that they were fetched from; -1: none."""
    updates: Annotated[int, Field(ge=0)]
    """Local updates since the run began here."""


class Manifest(BaseModel):
    """Everything that a checkpoint consists of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    saved: float
    """When, in seconds of Unix time by this machine's clock; for people."""
    run: RunRecord
    blocks: dict[int, BlockRecord]
    """By block index. A block that was never trained is absent: the base model has it."""
    active: ActiveRecord | None
    """Master copy, moments and public copy of the active block; None between phases."""
    adapters: AdapterRecord | None = None
    """Values and moments of the adapters; None in a run without them."""

    @property
    def tensor_files(self) -> tuple[FileRecord, ...]:
        """Every file that this checkpoint needs."""
        beside = [record for record in (self.active, self.adapters) if record is not None]
        return (*self.blocks.values(), *beside)

    @property
    def needed(self) -> frozenset[str]:
        """The paths of `tensor_files`, below the state directory."""
        return frozenset(record.file for record in self.tensor_files)

    def encode(self) -> bytes:
        """JSON for the disk, with the format's number and a hash over itself."""
        body = self.model_dump()
        return json.dumps({"format": FORMAT, "sha256": _digest(body), "checkpoint": body}, indent=1).encode()

    @classmethod
    def decode(cls, data: bytes, path: Path) -> Manifest:
        """The inverse of `encode`. Raises DamagedError, or StateError for another format; both name ``path``."""
        try:
            outer = json.loads(data)
            version, body = outer["format"], outer["checkpoint"]
            if version != FORMAT:
                raise other_format(path, version)
            if outer["sha256"] != _digest(body):
                raise DamagedError(path, "its contents do not match its hash")
            return cls.model_validate(body)
        except (ValueError, KeyError, TypeError):
            raise DamagedError(path, "it is not a manifest") from None


class DamagedError(StateError):
    """A checkpoint that cannot be trusted."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"The checkpoint is damaged: {path}: {what}. Nothing was changed. Restore the state directory from "
            "a backup, or move it away: the peer then starts anew and takes what its neighbours have."
        )
        self.path, self.what = path, what


def other_format(path: Path, version: object) -> StateError:
    """The error for a state directory that another version of decad wrote."""
    return StateError(
        f"{path} has format {version!r}; this decad reads format {FORMAT} alone. Use the decad that wrote it, "
        "or give another directory with --state-dir."
    )


def _digest(body: Any) -> str:
    # One round trip through JSON, so that the hash sees what a reader will see (keys are strings there).
    canonical = json.dumps(json.loads(json.dumps(body)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
