"""Trained blocks over a base model -> a Hugging Face directory that any tool loads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from decad.core.blocks import BlockPlan
from decad.errors import InternalError
from decad.model.layout import HEAD
from decad.model.loading import read_config
from decad.model.output import new_directory, write_config, write_weights
from decad.model.weights import BaseWeights

COPIED_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""Taken over from the base directory as they are, where present."""


def export_model(
    base_dir: Path,
    out_dir: Path,
    blocks: Mapping[int, Tensor],
    plan: BlockPlan,
    dtype: torch.dtype | None = None,
) -> None:
    """Write ``out_dir``: the base model with ``blocks`` (plan index -> fp32 [numel], host) in it.

    Blocks that are not given stay the base's. ``dtype`` None keeps every tensor's dtype of the base
    directory; float32 keeps every bit of what was trained. Each block is asked for once, in plan order, so a
    mapping may read them lazily. ``out_dir`` must not exist or be empty, and appears complete or not at all.
    Raises ModelError for the base and OperatorError for ``out_dir``.
    """
    config = read_config(base_dir)
    base = BaseWeights(base_dir)
    with new_directory(out_dir) as partial:
        write_weights(partial, _tensors(base, blocks, plan, dtype))
        if dtype is not None:
            # transformers writes "dtype" since version 5 and reads the older key too.
            config = {key: value for key, value in config.items() if key != "torch_dtype"}
            config["dtype"] = str(dtype).removeprefix("torch.")
        write_config(partial, config)
        for name in COPIED_FILES:
            if (base_dir / name).is_file():
                shutil.copyfile(base_dir / name, partial / name)


def _tensors(
    base: BaseWeights, blocks: Mapping[int, Tensor], plan: BlockPlan, dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    planned: set[str] = set()
    for block in plan.blocks:
        planned.update(slot.name for slot in block.slots)
        flat = blocks.get(block.index)
        if flat is not None and flat.shape != (block.numel,):
            raise InternalError(f"{block.name} has {block.numel} values, not {tuple(flat.shape)}")
        views = {} if flat is None else block.views(flat)
        for slot in block.slots:
            original = base.tensor(slot.name)
            yield slot.name, views.get(slot.name, original).to(dtype or original.dtype)
    for name in base.names:
        # A tied head that the base stored a second time would come back untrained.
        if name not in planned and name != HEAD:
            original = base.tensor(name)
            yield name, original.to(dtype or original.dtype)
