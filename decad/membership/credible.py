"""How far a step that others claim is believed: no further than time allows, unless enough of them have it.

A step costs a gradient and an exchange. A peer that runs knows how long its own takes, and takes no other peer to be
more than `TIMES_FASTER` times as fast: of two that are alone, neither moves the other further than it could have come.
Where there are more, what half of the peers heard have reached, and at least two, is believed at once: a laptop that
slept goes where the others are. What only two have reached is believed as far as time allows: the smaller part of a
split network may be further. One alone is not followed, unless it was together with this peer, then away for a while,
and is no further than that time explains. A peer that joins has no pace of its own, and believes what most of the
others have reached (docs/adr/0017).
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection

from decad.core.constants import MAX_STEP

TIMES_FASTER = 64
"""A processor against a GPU, beside which it would not be of much use."""


AWAY_S = 30.0
"""Who was away for so long may come back ahead of all others and be followed; the next time twice as long."""
ALONE_TIMES_FASTER = 4
"""One that trains alone waits for nobody."""
KNOWN = 1024
"""Peers of which it is remembered when they were here."""


class LoneLeaders:
    """Who may be followed though nobody else is as far. Times in seconds."""

    def __init__(self) -> None:
        self._together: dict[str, float] = {}
        """Peer -> when it was last within a step of this one."""
        self._away_s: dict[str, float] = {}

    def seen(self, peer: str, lead: int, now: float) -> None:
        """``peer`` claims to be so many steps ahead."""
        if abs(lead) <= 1:
            self._together.pop(peer, None)
            self._together[peer] = now
            if len(self._together) > KNOWN:
                del self._together[next(iter(self._together))]

    def explained(self, peer: str, lead: int, now: float, step_s: float) -> bool:
        """Whether its lead follows from how long it was away; ``step_s``: of this peer's own fastest step."""
        if peer not in self._together:
            return False
        away = now - self._together[peer]
        return away >= self._away_s.get(peer, AWAY_S) and lead <= ALONE_TIMES_FASTER * away / step_s

    def followed(self, peer: str) -> None:
        """This peer goes where it is."""
        self._away_s[peer] = 2 * self._away_s.pop(peer, AWAY_S)
        if len(self._away_s) > KNOWN:
            del self._away_s[next(iter(self._away_s))]


class StepBound:
    """Of one peer that trains. Times in seconds; ``slack``: steps that are always allowed (a phase's)."""

    def __init__(self, step: int, slack: int, now: float) -> None:
        self._slack = slack
        self.fastest_s = math.inf
        """Of this peer's steps."""
        self.mine = step
        """Where this peer is."""
        self._anchor(step, now)

    def _anchor(self, step: int, now: float) -> None:
        self._step, self._at, self._awake_at = step, now, _since_boot()

    def took(self, seconds: float) -> None:
        """A step of one's own took so long."""
        self.fastest_s = min(self.fastest_s, max(seconds, 1e-4))
        self.mine += 1

    def jumped(self, step: int, now: float) -> None:
        """This peer went to ``step``, for whatever good reason: time counts from here."""
        self.mine = step
        if step > self.most(now):
            self._anchor(step, now)

    def most(self, now: float) -> int:
        """The furthest step that somebody may have come to."""
        # The loop's clock stands while a machine sleeps; the other one is the system's, which tests cannot turn.
        elapsed = max(now - self._at, _since_boot() - self._awake_at)
        return min(MAX_STEP, self._step + self._slack + int(TIMES_FASTER * elapsed / self.fastest_s))


def reached_by_half(steps: Collection[int]) -> int:
    """The furthest step that half of them have reached, and at least two; -1 if there are not so many."""
    needed = max(2, math.ceil(len(steps) / 2))
    return sorted(steps, reverse=True)[needed - 1] if len(steps) >= needed else -1


def reached_by_two(steps: Collection[int]) -> int:
    """The furthest step that two of them have reached; -1 if there are not two."""
    return sorted(steps, reverse=True)[1] if len(steps) > 1 else -1


def reached_by_most(steps: Collection[int]) -> int:
    """The furthest step that more than half of them have reached. Raises ValueError without any."""
    if not steps:
        raise ValueError("nobody claims a step")
    return sorted(steps, reverse=True)[len(steps) // 2]


def _since_boot() -> float:
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)
