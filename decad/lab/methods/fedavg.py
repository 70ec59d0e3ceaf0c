"""FedAvg (McMahan et al. 2017, arXiv 1602.05629) with Adam at the clients: a server averages all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from decad.config import RunSpec
from decad.lab.methods.base import Edges, Method, everything


@dataclass(frozen=True)
class FedAvg(Method):
    """The centralised rival. A peer sends its model to the server and gets the average back."""

    local_steps: int = 20
    """Between two averages; moments begin anew after each."""

    def terms(self, spec: RunSpec, steps: int) -> RunSpec:
        return everything(spec, self.local_steps, spec.warmup)

    def mixes(self, step: int) -> bool:
        return (step + 1) % self.local_steps == 0

    def edges(self, overlay: str, here: Sequence[str], names: Mapping[str, str]) -> Edges:
        return {i: {j: 1 / len(here) for j in sorted(here) if j != i} for i in here}

    def copies(self, neighbours: int) -> int:
        return min(neighbours, 1)
