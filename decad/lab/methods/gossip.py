"""Full-parameter gossip Adam (D-Adam; Chen et al. 2021, arXiv 2109.00319): all parameters, mixed now and then."""

from __future__ import annotations

from dataclasses import dataclass

from decad.config import RunSpec
from decad.lab.methods.base import Method, everything


@dataclass(frozen=True)
class GossipAdam(Method):
    """Moments stay at home and are never set back."""

    every: int = 1
    """tau: steps between exchanges."""

    def terms(self, spec: RunSpec, steps: int) -> RunSpec:
        return everything(spec, steps)

    def mixes(self, step: int) -> bool:
        return (step + 1) % self.every == 0
