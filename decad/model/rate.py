"""The learning rates that suit a model where nobody gives any: the wider the layers, the smaller the steps.

With Adam every weight moves by about the rate, so what a layer gives out moves in proportion to how many inputs it adds
up; a rate in inverse proportion to the width moves it as much in every model (Yang et al. 2022, arXiv 2203.03466). What
was measured: docs/adr/0020-the-rate-follows-the-width.md.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from decad.config import RunSpec
from decad.core.schedule import training_end

ALONE = 2.0
"""The blocks' rate times the width, where blocks alone are trained."""
BESIDE_ADAPTERS = 1.3
"""The blocks', beside adapters that are trained in every step."""
OF_ADAPTERS = 2.5
STEADY = 0.3
"""Part of all these where the rate never falls to zero: what noise does is not mended in the end."""
WITHOUT_WIDTH = 1000
"""Width of a module without any matrix."""


def suited_rate(module: Any, times_width: float) -> float:
    """Peak learning rate for ``module``."""
    return float(f"{times_width / (width_of(module) or WITHOUT_WIDTH):.3g}")


def rates(module: Any, spec: RunSpec) -> dict[str, float]:
    """``lr`` and ``adapter_lr`` of a run: those of ``spec``, and what suits ``module`` where it has none."""
    part = 1.0 if training_end(spec.schedule) else STEADY
    lr = spec.lr or suited_rate(module, part * (BESIDE_ADAPTERS if spec.adapters else ALONE))
    beside = suited_rate(module, part * OF_ADAPTERS) if spec.adapters else 0.0
    return {"lr": lr, "adapter_lr": spec.adapter_lr or beside}


def width_of(module: Any) -> int:
    """Inputs of a usual layer: what a transformers model calls its hidden size, else the median over all matrices; 0
    for a module without any."""
    config = getattr(module, "config", None)
    if config is not None and hasattr(config, "get_text_config"):
        config = config.get_text_config()
    if isinstance(size := getattr(config, "hidden_size", None), int):
        return size
    return int(
        median([parameter.shape[1] for parameter in module.parameters() if parameter.dim() > 1] or [0])
    )
