"""Trained blocks over a base model -> a Hugging Face directory that any tool loads."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decad.config import RunSpec
from decad.core.blocks import BlockPlan
from decad.errors import ConfigError, InternalError, ModelError, first_line
from decad.model.adapters import merge, plan_of, put_adapters, save_adapters
from decad.model.division import NONE
from decad.model.loading import load_module
from decad.model.output import SHARD_BYTES, new_directory

COPIED_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)
"""Taken over from the base directory as they are, where present."""

AFTER_THE_LAST = 1
"""Index of the adapters where one block without parameters is all else."""


def export_model(
    base_dir: Path,
    out_dir: Path,
    blocks: Mapping[int, Tensor],
    spec: RunSpec,
    dtype: torch.dtype | None = None,
) -> None:
    """Write ``out_dir``: the base model with ``blocks`` (plan index -> fp32 [numel], host) in it.

    ``spec``: the run's, with task and labels (`TrainableModel.spec`). Blocks that are not given stay the base's.
    ``dtype`` None takes the base's; float32 keeps every bit of what was trained. Each block is asked for once, in plan
    order, so a mapping may read them lazily. ``out_dir`` must not exist or be empty, and appears complete or not at
    all. Raises ModelError for the base and OperatorError for ``out_dir``.
    """
    with new_directory(out_dir) as partial:
        module = load_module(base_dir, dtype or "auto", spec)
        plan = _put(module, blocks, spec)
        if spec.adapters:
            _put_adapters(module, blocks.get(len(plan)), spec)
        # In the architecture's own form, whatever transformers made of it in memory.
        module.save_pretrained(partial, max_shard_size=SHARD_BYTES)
        for name in COPIED_FILES:
            if (base_dir / name).is_file():
                shutil.copyfile(base_dir / name, partial / name)
        for file in partial.iterdir():  # safetensors leaves its own readable for the owner alone
            file.chmod(partial.stat().st_mode & 0o666)


def export_adapters(base_dir: Path, out_dir: Path, blocks: Mapping[int, Tensor], spec: RunSpec) -> None:
    """Write ``out_dir``: the adapters alone, for peft and whatever reads its directories; fp32.

    As `export_model`. Raises ConfigError where blocks were trained too, and where there are no adapters.
    """
    if not spec.adapters:
        raise ConfigError("This run has no adapters (--adapters 0). Export the model, without --adapter.")
    if spec.blocks != NONE:
        raise ConfigError(
            "Blocks of the model itself were trained in this run, so its adapters alone are not what came of it. "
            "Export the whole model, without --adapter. A run that trains adapters alone has --blocks none."
        )
    if AFTER_THE_LAST not in blocks:
        raise ConfigError("No step was taken yet: there are no adapters to export.")
    with new_directory(out_dir) as partial:
        module = load_module(base_dir, "auto", spec)
        save_adapters(module, spec, blocks[AFTER_THE_LAST], str(base_dir.resolve()), partial)
        for file in partial.iterdir():
            file.chmod(partial.stat().st_mode & 0o666)


def check_export(directory: Path, module: Any) -> None:
    """Find now what would make `export_model` fail after all the training. Raises ModelError.

    ``module``: the model of ``directory``; all of it is written but for its tensors.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="decad-export-") as folder:
            module.save_pretrained(folder, state_dict={})
    except OSError:  # no room there just now says nothing of later
        return
    except Exception as error:
        named = "generation_config.json" if "eneration" in str(error) else "what is in it"
        raise ModelError(
            f"{directory} could be trained, but not written again: {first_line(error)}. Mend {named}; the export after "
            "the training would fail."
        ) from error


def _put_adapters(module: Any, flat: Tensor | None, spec: RunSpec) -> None:
    """Merge adapters, fp32 [a], into the weights; None: none were trained."""
    if flat is None:
        return
    block, parameters = put_adapters(module, spec, 0)
    with torch.no_grad():
        for name, values in block.views(flat).items():
            parameters[name].copy_(values)
    merge(module)


def _put(module: Any, blocks: Mapping[int, Tensor], spec: RunSpec) -> BlockPlan:
    parameters = dict(module.named_parameters())
    plan = plan_of(module, spec)
    for block in plan.blocks:
        if (flat := blocks.get(block.index)) is None:
            continue
        if flat.shape != (block.numel,):
            raise InternalError(f"{block.name} has {block.numel} values, not {tuple(flat.shape)}")
        for slot, values in zip(block.slots, block.views(flat).values(), strict=True):
            slot.part_of(parameters[slot.name]).copy_(values)
    return plan
