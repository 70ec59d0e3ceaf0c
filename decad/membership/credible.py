"""How far a step that others claim is believed: no further than time allows, unless enough of them have it.

A step costs a gradient and an exchange. A peer that runs knows how long its own takes, and takes no other peer to be
more than `TIMES_FASTER` times as fast: whatever one peer claims moves another only as far as it could have come. What
half of the peers heard have reached, and at least two, is believed at once: a laptop that slept goes where the others
are. A peer that joins has no pace of its own, and believes what most of the others have reached (docs/adr/0017).
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection

from decad.core.constants import MAX_STEP

TIMES_FASTER = 64
"""A processor against a GPU, beside which it would not be of much use."""


class StepBound:
    """Of one peer that trains. Times in seconds; ``slack``: steps that are always allowed (a phase's)."""

    def __init__(self, step: int, slack: int, now: float) -> None:
        self._slack = slack
        self._fastest_s = math.inf
        self._anchor(step, now)

    def _anchor(self, step: int, now: float) -> None:
        self._step, self._at, self._awake_at = step, now, _since_boot()

    def took(self, seconds: float) -> None:
        """A step of one's own took so long."""
        self._fastest_s = min(self._fastest_s, max(seconds, 1e-4))

    def jumped(self, step: int, now: float) -> None:
        """This peer went to ``step``, for whatever good reason: time counts from here."""
        if step > self.most(now):
            self._anchor(step, now)

    def most(self, now: float) -> int:
        """The furthest step that somebody may have come to."""
        # The loop's clock stands while a machine sleeps; the other one is the system's, which tests cannot turn.
        elapsed = max(now - self._at, _since_boot() - self._awake_at)
        return min(MAX_STEP, self._step + self._slack + int(TIMES_FASTER * elapsed / self._fastest_s))


def reached_by_half(steps: Collection[int]) -> int:
    """The furthest step that half of them have reached, and at least two; -1 if there are not so many."""
    needed = max(2, math.ceil(len(steps) / 2))
    return sorted(steps, reverse=True)[needed - 1] if len(steps) >= needed else -1


def reached_by_most(steps: Collection[int]) -> int:
    """The furthest step that more than half of them have reached. Raises ValueError without any."""
    if not steps:
        raise ValueError("nobody claims a step")
    return sorted(steps, reverse=True)[len(steps) // 2]


def _since_boot() -> float:
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)
