"""Adam on all data in one place: what nobody here may do, and the upper bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from decad.config import RunSpec
from decad.lab.methods.base import Learner, Method, everything, together
from decad.lab.pool import Pool


@dataclass(frozen=True)
class Pooled(Method):
    """One machine trains all parameters on what the peers have together."""

    batch_size: int = 0
    """Of a step; 0: as many examples as all peers together take."""

    def terms(self, spec: RunSpec, steps: int) -> RunSpec:
        return everything(spec, steps)

    def learners(self, peers: Sequence[Learner], pool: Pool, seed: int) -> list[Learner]:
        return together(peers, pool, seed, self.batch_size)
