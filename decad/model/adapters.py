"""Low-rank adapters (LoRA; Hu et al. 2021, arXiv 2106.09685) beside a model's own parameters, by peft's layers.

The layer becomes y = W x + (alpha / rank) U D x, with D [rank, inputs] drawn by seed and U [outputs, rank] zero at
first, so that the model begins as it was.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from transformers.pytorch_utils import Conv1D

from decad.errors import ConfigError

ALL_LINEAR = "all-linear"


class Adapting(NamedTuple):
    """Which adapters; the same at all peers of a run."""

    rank: int
    alpha: int
    seed: int
    """Of their first values."""
    targets: str = ALL_LINEAR
    """Modules that get one: names separated by commas, or all-linear."""


def head_names(module: Any) -> list[str]:
    """The parameters of a classifier's head, which begins at random."""
    prefix = f"{module.base_model_prefix}."
    return [name for name, _ in module.named_parameters() if not name.startswith(prefix)]


def add_adapters(module: Any, adapting: Adapting, without: list[str]) -> list[str]:
    """Put adapters into ``module``, on the host, but not into the modules of the parameters ``without``.

    Returns the names of their factors, in the module's order. Raises ConfigError.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError("Adapters need peft: pip install 'decad[lab]'.") from None
    targets = adapting.targets if adapting.targets == ALL_LINEAR else adapting.targets.split(",")
    settings = LoraConfig(
        r=adapting.rank,
        lora_alpha=adapting.alpha,
        target_modules=targets,
        exclude_modules=sorted({name.rpartition(".")[0] for name in without}) or None,
        lora_dropout=0.0,
        fan_in_fan_out=any(isinstance(part, Conv1D) for part in module.modules()),
    )
    before = {id(parameter) for parameter in module.parameters()}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Of experts that are one parameter and no layers: they get no adapters here.
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
        torch.manual_seed(adapting.seed)
        try:
            inject_adapter_in_model(settings, module)
        except ValueError as error:
            raise ConfigError(f"adapters: targets {adapting.targets!r} are not accepted: {error}") from None
    module.train(False)
    return [name for name, parameter in module.named_parameters() if id(parameter) not in before]
