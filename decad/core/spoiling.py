"""Whose block would spoil mine: it is further from mine than mine from zero, and than training can have moved us apart.

One Adam step moves a value by at most `ADAM_STEP` learning rates, and mixing moves nobody out of the hull of what
honest peers have. So two that were together when the phase began are apart by at most what both can have moved since,

    ||public_j - public_i||  <=  2 * ADAM_STEP * rate * steps * sqrt(n)

and two that were not differ by what fine-tuning has changed, which is little beside the model itself. A block that is
out of all proportion is somebody's fault, or meant: the step's mixing is taken back, and its sender named.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict

from torch import Tensor

from decad.core.clipping import ADAM_STEP

STRIDE = 16
"""The distance is measured on every 16th value, from a place drawn anew for each step that nobody can foresee."""


class Distances:
    """Between each neighbour's block and mine in one step, as its chunks come."""

    def __init__(self) -> None:
        self._first = random.SystemRandom().randrange(STRIDE)
        self._apart: defaultdict[str, float] = defaultdict(float)
        self._own: defaultdict[str, float] = defaultdict(float)
        self._seen: defaultdict[str, int] = defaultdict(int)

    def add(self, neighbour: str, values: Tensor, public: Tensor) -> None:
        """One chunk of its block and the same of mine: fp32 [elements]."""
        theirs, mine = values[self._first :: STRIDE], public[self._first :: STRIDE]
        self._apart[neighbour] += float((theirs - mine).square_().sum())
        self._own[neighbour] += float(mine.square().sum())
        self._seen[neighbour] += mine.numel()

    def relative(self, neighbour: str) -> float:
        """To the length of mine; -1 if nothing of it was heard."""
        own = self._own[neighbour]
        return math.sqrt(self._apart[neighbour] / own) if own > 0 else -1.0

    def spoilers(self, moved: float) -> list[str]:
        """The neighbours whose blocks are out of all proportion, by id; ``moved``: see `moved_apart`."""
        return sorted(
            name
            for name, seen in self._seen.items()
            if self._apart[name] > max(self._own[name], seen * moved**2)
        )


def moved_apart(rate: float, steps: int) -> float:
    """How far one value can be apart at two peers by ``steps`` of training at learning rate ``rate``."""
    return 2 * ADAM_STEP * rate * steps
