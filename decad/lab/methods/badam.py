"""BAdam (Luo, Yu, Li 2024, arXiv 2404.02827) on all data in one place: block-wise Adam without peers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from decad.lab.methods.base import Learner, Method, together
from decad.lab.pool import Pool


@dataclass(frozen=True)
class BAdam(Method):
    """What the division into blocks costs by itself; equal to the published optimiser (tests/paper)."""

    batch_size: int = 0
    """Of a step; 0: as many examples as all peers together take."""

    def learners(self, peers: Sequence[Learner], pool: Pool, seed: int) -> list[Learner]:
        return together(peers, pool, seed, self.batch_size)
