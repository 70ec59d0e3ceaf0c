"""Whether a model can fit at all: known from its description, before its weights are read."""

from __future__ import annotations

from pathlib import Path

import torch

from decad.config import RunSpec
from decad.errors import ModelError
from decad.model.adapters import plan_of
from decad.model.loading import empty_module, what_to_train


def check_room(directory: Path, spec: RunSpec, dtype: torch.dtype, device: str, available: int) -> None:
    """Refuse a model that needs more than ``available`` bytes on ``device`` even without a batch.

    Counted are the weights, and for the largest block its moments, its gradient in fp32, and below fp32 its master
    copy. Raises ModelError with the figures, and whatever is wrong with the description.
    """
    spec = what_to_train(directory, spec)
    with torch.device("meta"):
        module = empty_module(directory, dtype, spec)
    plan = plan_of(module, spec)
    largest = max(plan.blocks, key=lambda block: block.numel)
    weights = sum(parameter.numel() for parameter in module.parameters()) * dtype.itemsize
    block = largest.numel * (12 if dtype == torch.float32 else 16)
    if weights + block > available:
        held_in = str(dtype).removeprefix("torch.")
        raise ModelError(
            f"{directory} needs at least {_gib(weights + block)} GiB on {device}, of which {_gib(available)} are "
            f"available: {_gib(weights)} for the weights in {held_in} and {_gib(block)} for training block "
            f"{largest.name}, before a batch is read. Try --dtype bfloat16, smaller blocks (--blocks sublayers), or a "
            "smaller model; `decad blocks` shows what each block takes."
        )


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f}"
