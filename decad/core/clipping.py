"""Self-centred clipping: how far one neighbour's values may pull in one step.

    d = sum_j w_ij * s_j * (public_j - public_i),     s_j = min(1, radius / ||public_j - public_i||)

for each chunk as it arrives, so that one pass suffices and each site keeps its weight (He, Karimireddy and Jaggi,
arXiv 2202.01545). The radius follows what is usual: a few times the distance at which the nearer half of the neighbours
was when this chunk was last mixed, and what one Adam step at both ends can add to it. So a minority of the neighbours
cannot widen it. With one neighbour there is nothing to compare it with, and nothing is clipped.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from decad.core.constants import ADAM_STEP
from decad.core.section import Section

TIMES_USUAL = 4.0
"""How much further than usual is still taken whole."""


class Clipping:
    """One peer's, for a whole run: what was usual for each chunk of each block."""

    def __init__(self) -> None:
        self._usual: dict[tuple[int, Section, int], float] = {}

    def step(self, block: int, rate: float, neighbours: int) -> StepClipping | None:
        """For one step of ``block`` at learning rate ``rate``, to be mixed with so many ``neighbours``."""
        return StepClipping(self._usual, block, rate) if neighbours > 1 else None


class StepClipping:
    """One step's."""

    def __init__(self, usual: dict[tuple[int, Section, int], float], block: int, rate: float) -> None:
        self._usual, self._block, self._rate = usual, block, rate
        self._norms: defaultdict[tuple[Section, int], list[float]] = defaultdict(list)
        self._own: dict[tuple[Section, int], float] = {}
        self._apart: defaultdict[str, float] = defaultdict(float)
        self._taken: defaultdict[str, float] = defaultdict(float)

    def share(
        self, neighbour: str, section: Section, chunk: int, values: Tensor, public: Tensor, scale: float
    ) -> float:
        """s_j of one chunk. ``values``: the neighbour's, ``public``: this peer's own, both fp32 [elements]."""
        place = (section, chunk)
        if place not in self._own:
            self._own[place] = math.sqrt(torch.dot(public, public))
        between = torch.sub(public, values, alpha=scale)
        norm = math.sqrt(torch.dot(between, between))
        self._norms[place].append(norm)
        share = min(1.0, self._radius(place, values.numel()) / norm) if norm > 0 else 1.0
        if section is Section.BLOCK:
            self._apart[neighbour] += norm**2
            self._taken[neighbour] += (share * norm) ** 2
        return share

    def clipped(self, neighbour: str) -> float:
        """Which share of the distance to a neighbour's block was not taken: 0 to 1."""
        apart = self._apart[neighbour]
        return 1.0 - math.sqrt(self._taken[neighbour] / apart) if apart > 0 else 0.0

    def finish(self) -> None:
        """The step is mixed: what was seen is what is usual."""
        for (section, chunk), norms in self._norms.items():
            if len(norms) > 1:
                self._usual[self._block, section, chunk] = sorted(norms)[(len(norms) - 1) // 2]

    def _radius(self, place: tuple[Section, int], elements: int) -> float:
        usual = TIMES_USUAL * self._usual.get((self._block, *place), 0.0)
        if place[0] is Section.BLOCK:
            return usual + 2 * ADAM_STEP * self._rate * math.sqrt(elements)
        # Moments follow the gradients, whose size no learning rate bounds.
        return usual + self._own[place]


TIMES_ABSURD = 16.0
FLOOR_ABSURD = 0.25
"""A block that begins with zeros is no longer of zeros after a phase: values up to 4 are always taken in."""


def absurd_beyond(largest: Mapping[Section, float]) -> dict[Section, float]:
    """By section, the value that no honest neighbour's can exceed; ``largest``: one's own largest, by section."""
    beyond = {Section.BLOCK: math.inf, Section.FIRST: 1e6, Section.SECOND: 1e12}
    for section, own in largest.items():
        beyond[section] = TIMES_ABSURD * max(own, FLOOR_ABSURD)
    return beyond
