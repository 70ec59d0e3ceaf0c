"""BAdam (Luo, Yu, Li 2024, arXiv 2404.02827) on all data in one place: block-wise Adam without peers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from decad.config import RunSpec
from decad.lab.methods.base import Learner, Method, together
from decad.lab.pool import Pool


@dataclass(frozen=True)
class BAdam(Method):
    """What the division into blocks costs by itself. As published, the rate does not rise within a phase; equal to
    its authors' program (tests/paper)."""

    batch_size: int = 0
    """Of a step; 0: as many examples as all peers together take."""

    def terms(self, spec: RunSpec, steps: int) -> RunSpec:
        return spec.model_copy(update={"warmup": 0.0, "settle": 0})

    def learners(self, peers: Sequence[Learner], pool: Pool, seed: int) -> list[Learner]:
        return together(peers, pool, seed, self.batch_size)
