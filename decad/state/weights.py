"""A checkpoint's blocks as one mapping, whether they lie inactive or were active when it was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from decad.state.checkpoint import Checkpoint

MASTER = "master"
"""Name among the active tensors of the fp32 master copy."""


class TrainedBlocks(Mapping[int, Tensor]):
    """Block index -> fp32 host tensor [n]; each is read from the disk when asked for. Raises StateError."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        record = checkpoint.manifest.active
        self._active = None if record is None else record.block

    def __getitem__(self, index: int) -> Tensor:
        if index == self._active and (active := self._checkpoint.active()) is not None:
            return active.tensors[MASTER]
        if index not in self._checkpoint.phases:
            raise KeyError(index)
        return self._checkpoint.block(index).to(torch.float32)

    def __iter__(self) -> Iterator[int]:
        active = set() if self._active is None else {self._active}
        return iter(sorted(self._checkpoint.phases.keys() | active))

    def __len__(self) -> int:
        return sum(1 for _ in self)
