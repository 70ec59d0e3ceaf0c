"""Everybody alone: block-wise Adam on one's own data. The averaged model is an average at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from decad.config import RunSpec
from decad.lab.methods.base import Edges, Method, everything


@dataclass(frozen=True)
class Local(Method):
    """What joining is compared with."""

    whole: bool = False
    """Train all parameters at once rather than block by block."""

    def terms(self, spec: RunSpec, steps: int) -> RunSpec:
        return everything(spec, steps) if self.whole else spec.model_copy(update={"settle": 0})

    def edges(self, overlay: str, here: Sequence[str], names: Mapping[str, str]) -> Edges:
        return {i: {} for i in here}
