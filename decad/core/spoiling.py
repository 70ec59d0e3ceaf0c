"""Whose block would spoil mine: it is further from mine than mine from zero, and than training can have moved us apart.

One Adam step moves a value by at most `ADAM_STEP` learning rates, and mixing moves nobody out of the hull of what
honest peers have. So two that were near each other are apart by at most what both can have moved since,

    ||public_j - public_i||  <=  2 * ADAM_STEP * lr * steps * sqrt(n)

with the steps of this block since then. A block that is further away, and further than mine is from zero, is
somebody's fault or meant: the step's mixing is taken back, and its sender named. So two halves of a network that was
split for long still come together. Who is met for the first time has just fetched what it missed: it gets a phase's
steps.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from decad.core.constants import ADAM_STEP
from decad.core.section import Section

PARTS = 16
"""The distance is measured on one of so many parts of each chunk, which others had better not foresee. Together,
since every 16th value would cost the memory traffic of all."""
SMALL = 4096
"""Elements of a chunk that is measured whole."""
MET_KEPT = 65_536
"""Neighbours times blocks that are remembered."""


class Distances:
    """Between each neighbour's block and mine in one step, as its chunks come."""

    def __init__(self, part: int = 0) -> None:
        """``part``: which, below `PARTS`."""
        self._part = part
        self._mine: dict[int, tuple[slice, Tensor, float]] = {}
        """By where a chunk starts: what is looked at of it, mine of that, and its squared length."""
        self._apart: defaultdict[str, float] = defaultdict(float)
        self._own: defaultdict[str, float] = defaultdict(float)
        self._seen: defaultdict[str, int] = defaultdict(int)

    def add(self, neighbour: str, start: int, values: Tensor, public: Tensor) -> None:
        """One chunk of its block, fp32 [elements], from value ``start`` on; ``public``: the whole of mine, fp32."""
        size = values.numel()
        if start not in self._mine:
            whole = slice(0, size)
            part = slice(self._part * size // PARTS, (self._part + 1) * size // PARTS)
            here = whole if size <= SMALL else part
            mine = public[start + here.start : start + here.stop]
            self._mine[start] = here, mine, float(torch.dot(mine, mine))
        here, mine, own = self._mine[start]
        apart = values[here] - mine
        self._apart[neighbour] += float(torch.dot(apart, apart))
        self._own[neighbour] += own
        self._seen[neighbour] += mine.numel()

    @property
    def heard(self) -> tuple[str, ...]:
        """Those of whom something came."""
        return tuple(self._seen)

    def relative(self, neighbour: str) -> float:
        """To the length of mine; -1 if nothing of it was heard."""
        own = self._own.get(neighbour, 0.0)
        return math.sqrt(self._apart[neighbour] / own) if own > 0 else -1.0

    def spoilers(self, apart: Callable[[str], float]) -> list[str]:
        """The neighbours whose blocks are out of all proportion, by id.

        ``apart``: how far one value of a neighbour's can be from mine by training.
        """
        return sorted(
            name
            for name, seen in self._seen.items()
            if self._apart[name] > max(self._own[name], seen * apart(name) ** 2)
        )


class Watched(NamedTuple):
    """A section of a message whose distance from one's own is looked at."""

    place: int
    """Of its values among the blocks and what is trained beside them."""
    trained: Callable[[int], int]
    """Step -> how many steps of these values the run has had, with that one."""
    reach: float
    """See `reach`."""


class StepDistances:
    """`Distances` of one step's message, section by section."""

    def __init__(self, watched: Mapping[Section, Watched], part: int = 0) -> None:
        """``part``: see `Distances`."""
        self.watched = watched
        self.of = {section: Distances(part) for section in watched}

    def add(self, section: Section, neighbour: str, start: int, values: Tensor, public: Tensor) -> None:
        """As `Distances.add`; of a section that is not watched nothing is kept."""
        if section in self.of:
            self.of[section].add(neighbour, start, values, public)

    def relative(self, neighbour: str) -> float:
        """Of the block, or of the adapters if nothing else is trained: see `Distances.relative`."""
        told = (distances.relative(neighbour) for distances in self.of.values())
        return next((apart for apart in told if apart >= 0), -1.0)

    @property
    def furthest(self) -> float:
        """The largest `relative` of those heard; -1 if nobody was."""
        heard = {name for distances in self.of.values() for name in distances.heard}
        return max(map(self.relative, heard), default=-1.0)


class Acquaintance:
    """Up to which step of each block each neighbour was in proportion, also of those that left."""

    def __init__(self, inner_steps: int) -> None:
        """``inner_steps``: of a phase."""
        self._inner_steps = inner_steps
        self._near: dict[tuple[str, int], int] = {}

    def spoilers(self, step: int, distances: StepDistances) -> list[str]:
        """Those of one step, in whichever section."""
        found: set[str] = set()
        for section, (place, trained, far) in distances.watched.items():
            found.update(self.judge(distances.of[section], place, trained(step), far))
        return sorted(found)

    def judge(self, distances: Distances, block: int, trained: int, reach: float) -> list[str]:
        """The spoilers of one step, after ``trained`` steps of ``block`` in this run; ``reach``: see `reach`."""

        def apart(name: str) -> float:
            near = self._near.get((name, block), trained - self._inner_steps)
            return reach * min(trained, trained - near)

        found = distances.spoilers(apart)
        for name in set(distances.heard).difference(found):
            self._near.pop((name, block), None)  # so that the oldest stand first
            self._near[name, block] = trained
        while len(self._near) > MET_KEPT:
            del self._near[next(iter(self._near))]
        return found


def reach(lr: float) -> float:
    """How far two peers can come apart in one value by one step of both; ``lr``: the run's highest rate."""
    return 2 * ADAM_STEP * lr
