"""What a peer's checkpoint holds, to be compared bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from decad.core.memory import bytes_of
from decad.state.checkpoint import open_checkpoint
from decad.state.weights import TrainedBlocks


class Saved(NamedTuple):
    """Everything of a checkpoint that training depends on."""

    step: int
    data: dict[str, object]
    """Position in the data."""
    updates: int
    sequence: int
    tensors: dict[str, Tensor]
    """Every trained block by its index, and those of the active block by name."""


def saved(directory: Path) -> Saved:
    """The current checkpoint of a state directory."""
    with open_checkpoint(directory) as checkpoint:
        assert checkpoint is not None
        assert checkpoint.lost == ""
        blocks = TrainedBlocks(checkpoint)
        tensors = {str(index): blocks[index] for index in blocks}
        if (beside := checkpoint.adapters()) is not None:
            tensors |= {f"adapters/{name}": tensor for name, tensor in beside.tensors.items()}
            tensors["adapters/updates"] = torch.tensor(beside.updates)
        active = checkpoint.active()
        if active is None:
            return Saved(checkpoint.run.step, checkpoint.run.data, 0, -1, tensors)
        return Saved(
            checkpoint.run.step,
            checkpoint.run.data,
            active.updates,
            active.sequence,
            {**tensors, **active.tensors},
        )


def assert_same(found: Saved, expected: Saved) -> None:
    """Equal in every bit."""
    assert found[:4] == expected[:4]
    assert found.tensors.keys() == expected.tensors.keys()
    differing = [
        name for name in found.tensors if not torch.equal(found.tensors[name], expected.tensors[name])
    ]
    assert differing == []


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 (hex) of the tensors' bytes, one after the other."""
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(bytes_of(tensor.detach().cpu().contiguous()))
    return whole.hexdigest()
