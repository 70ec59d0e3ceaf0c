"""What is trained beside every block: low-rank adapters (LoRA; Hu et al. 2021, arXiv 2106.09685), by peft's layers,
and a classifier's head as it is, since it begins at random.

The layer becomes y = W x + (alpha / rank) U D x, with D [rank, inputs] drawn by seed and U [outputs, rank] zero at
first, so that the model begins as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from decad.config import RunSpec
from decad.core.blocks import Block, BlockPlan
from decad.errors import ConfigError
from decad.model.division import NONE, divide
from decad.model.loading import CLASSIFICATION
from decad.model.patterns import chosen

ALL_LINEAR = "all-linear"


class Adapting(NamedTuple):
    """Which adapters; the same at all peers of a run."""

    rank: int
    alpha: int
    seed: int
    """Of their first values."""
    targets: str = ALL_LINEAR
    """Modules that get one: names separated by commas, or all-linear."""


def adapting(spec: RunSpec) -> Adapting:
    """Those of a run: drawn by the base weights, which all peers have, and twice the rank as alpha."""
    return Adapting(spec.adapters, 2 * spec.adapters, int(spec.model_hash[:15] or "0", 16))


def head_names(module: Any) -> list[str]:
    """The parameters of a classifier's head, which begins at random."""
    prefix = f"{module.base_model_prefix}."
    return [name for name, _ in module.named_parameters() if not name.startswith(prefix)]


def head_beside(module: Any, spec: RunSpec) -> list[str]:
    """The parameters of the head that are trained beside every block: those that are not frozen."""
    head = head_names(module) if spec.adapters and spec.task == CLASSIFICATION else []
    frozen = {name for pattern in spec.freeze for name in chosen(pattern, head)}
    return [name for name in head if name not in frozen]


def plan_of(module: Any, spec: RunSpec) -> BlockPlan:
    """The blocks of a run; ``module`` has no adapters yet. Raises ConfigError."""
    if spec.blocks == NONE and not spec.adapters:
        raise ConfigError("--blocks none trains nothing without adapters: give --adapters RANK.")
    return divide(module, spec.blocks, spec.freeze, head_beside(module, spec))


def add_adapters(module: Any, adapting: Adapting, without: list[str], empty: bool = False) -> list[str]:
    """Put adapters into ``module``, on the host, but not into the modules of the parameters ``without``.

    ``empty``: on the meta device, as the module is. Returns the names of their factors, in the module's order. Raises
    ConfigError.
    """
    # Here, since it takes seconds of which a run without adapters has no need.
    from peft import inject_adapter_in_model

    settings = _settings(module, adapting, without)
    before = {id(parameter) for parameter in module.parameters()}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft names patterns for the layers of mixtures of experts whether this model has them or not.
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
        torch.manual_seed(adapting.seed)
        try:
            inject_adapter_in_model(settings, module, low_cpu_mem_usage=empty)
        except ValueError as error:
            raise ConfigError(f"adapters: targets {adapting.targets!r} are not accepted: {error}") from None
    module.train(False)
    return [name for name, parameter in module.named_parameters() if id(parameter) not in before]


def _settings(module: Any, adapting: Adapting, without: list[str], **more: Any) -> Any:
    """As peft has them; ``more``: other fields of its LoraConfig."""
    from peft import LoraConfig

    targets = adapting.targets if adapting.targets == ALL_LINEAR else adapting.targets.split(",")
    return LoraConfig(
        r=adapting.rank,
        lora_alpha=adapting.alpha,
        target_modules=targets,
        exclude_modules=sorted({name.rpartition(".")[0] for name in without}) or None,
        lora_dropout=0.0,
        fan_in_fan_out=any(isinstance(part, Conv1D) for part in module.modules()),
        **more,
    )


def save_adapters(module: Any, spec: RunSpec, flat: Tensor, base: str, out: Path) -> None:
    """Write adapters, fp32 [a], into the directory ``out`` as peft has them, with a classifier's head; ``module``: the
    base model, without any, that is to be found at ``base``."""
    from peft import TaskType

    head = head_names(module) if spec.task == CLASSIFICATION else []
    more = {
        "task_type": TaskType.SEQ_CLS if spec.task == CLASSIFICATION else TaskType.CAUSAL_LM,
        "modules_to_save": sorted({name.partition(".")[0] for name in head}) or None,
        "base_model_name_or_path": base,
        "inference_mode": True,
    }
    settings = _settings(module, adapting(spec), head, **more)
    values = {name: module.get_parameter(name).detach().float() for name in head}
    block, _ = put_adapters(module, spec, 0)
    values |= {name.replace(".default.", "."): view for name, view in block.views(flat).items()}
    save_file(
        {f"base_model.model.{name}": view.contiguous() for name, view in values.items()},
        out / "adapter_model.safetensors",
        {"format": "pt"},
    )
    settings.save_pretrained(str(out))


def put_adapters(module: Any, spec: RunSpec, index: int, empty: bool = False) -> tuple[Block, dict[str, Any]]:
    """Put a run's adapters into ``module``. Returns what is trained beside every block as block ``index``, and its
    parameters by name.

    ``empty``: see `add_adapters`. Raises ConfigError.
    """
    head = head_names(module) if spec.task == CLASSIFICATION else []
    beside = head_beside(module, spec)
    names = [*add_adapters(module, adapting(spec), head, empty), *beside]
    parameters = {name: parameter for name, parameter in module.named_parameters() if name in names}
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    return replace(BlockPlan.build([("adapters", names)], shapes)[0], index=index), parameters


def take_fp32(module: Any, names: Iterable[str]) -> None:
    """Let the layers of the parameters ``names``, which are fp32, take activations of any kind."""

    def convert(layer: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(part.to(torch.float32) for part in inputs)

    for name in sorted({name.rpartition(".")[0] for name in names}):
        module.get_submodule(name).to(torch.float32).register_forward_pre_hook(convert)


def merge(module: Any) -> None:
    """Add what the adapters of ``module`` do to the weights of their layers, and take them out again."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {name: part for name, part in module.named_modules() if isinstance(part, BaseTunerLayer)}
    for layer in layers.values():
        if not layer.merged:
            layer.merge()
    for name, layer in layers.items():
        if not any(name.startswith(f"{outer}.") for outer in layers):  # experts have a layer in a layer
            module.set_submodule(name, layer.get_base_layer())
