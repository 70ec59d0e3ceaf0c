"""Mixing rules that take order statistics in the place of the weighted mean, coordinate by coordinate.

    median     d = median over {mine, those heard} - mine
    trimmed    d = mean over {mine, those heard} without the smallest and the largest quarter - mine

of the public values of a step (Yin, Chen, Ramchandran and Bartlett, arXiv 1803.01498; BRIDGE: Fang, Yang and Bajwa,
arXiv 1908.08098). Of n values the trimmed mean leaves out n // 4 at each end, at least 1. Neither keeps the sites'
weights nor the network's average, and both hold the values of all neighbours heard until the step ends: they are for
overlays in which everybody hears many.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

import torch
from torch import Tensor

from decad.core.section import Section

Rule = Literal["median", "trimmed"]


def middle(values: Tensor, rule: Rule) -> Tensor:
    """The order statistic of each column: fp32 [n, elements] to [elements]; of an even number of values the median is
    the mean of the two in the middle."""
    count = values.shape[0]
    outside = max(1, count // 4) if rule == "trimmed" else (count - 1) // 2
    if count < 3:
        return values.mean(0)
    return values.sort(0).values[outside : count - outside].mean(0)


class Collected:
    """What was heard in one step, until it is complete."""

    def __init__(self, rule: Rule) -> None:
        self._rule: Rule = rule
        self._values: defaultdict[tuple[Section, int], list[Tensor]] = defaultdict(list)

    def add(self, section: Section, chunk: int, values: Tensor, scale: float) -> None:
        """Keep a copy of one neighbour's chunk."""
        self._values[section, chunk].append(values * scale)

    def discrepancy(self, section: Section, chunk: int, mine: Tensor) -> Tensor:
        """d of one chunk that somebody was heard for; ``mine``: fp32 [elements]. What was kept of it is let go."""
        heard = self._values.pop((section, chunk))
        return middle(torch.stack([mine, *(values.to(mine.device) for values in heard)]), self._rule) - mine
