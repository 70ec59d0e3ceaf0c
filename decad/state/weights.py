"""A checkpoint's blocks as one mapping, whether they lie inactive or were active when it was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from decad.state.checkpoint import Checkpoint

MASTER = "master"
"""Name among the active tensors of the fp32 master copy."""


class TrainedBlocks(Mapping[int, Tensor]):
    """Block index -> fp32 host tensor [n]; adapters are the block after the last.

    Each is read from the disk when asked for. Raises StateError.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        record = checkpoint.manifest.active
        self._active = None if record is None else record.block
        beside = checkpoint.manifest.adapters
        self._adapters = None if beside is None else beside.block

    def __getitem__(self, index: int) -> Tensor:
        if index == self._active and (active := self._checkpoint.active()) is not None:
            return active.tensors[MASTER]
        if index == self._adapters and (beside := self._checkpoint.adapters()) is not None:
            return beside.tensors["block"]
        if index not in self._checkpoint.phases:
            raise KeyError(index)
        return self._checkpoint.block(index).to(torch.float32)

    def __iter__(self) -> Iterator[int]:
        beside = {index for index in (self._active, self._adapters) if index is not None}
        return iter(sorted(self._checkpoint.phases.keys() | beside))

    def __len__(self) -> int:
        return sum(1 for _ in self)
