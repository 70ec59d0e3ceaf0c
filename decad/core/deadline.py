"""How long a step waits for its neighbours: derived from what was observed, never set by hand.

deadline = median + max(3 MAD, 0.5 S), clipped to [0.2 s, 2 S]; without history 10 S. S is the median time of
my own recent steps of this block (docs/protocol.md). All times in seconds.
"""

from __future__ import annotations

from collections import deque
from statistics import median

HISTORY = 64
"""Arrivals remembered: some rounds of a few neighbours, so that a changed network shows within a minute."""
SHORTEST = 0.2
"""No deadline below: a scheduler's hiccup on a busy machine takes as long."""


def deadline(arrivals: list[float], step_seconds: float) -> float:
    """Seconds to wait after one's own half-step, from past arrivals and the median step time S."""
    if not arrivals:
        return max(SHORTEST, 10 * step_seconds)
    middle = median(arrivals)
    spread = median(abs(a - middle) for a in arrivals)
    return max(SHORTEST, min(middle + max(3 * spread, 0.5 * step_seconds), 2 * step_seconds))


class Pace:
    """What a peer remembers of its own step times and its neighbours' arrivals."""

    def __init__(self) -> None:
        self._arrivals: deque[float] = deque(maxlen=HISTORY)
        self._steps: dict[int, deque[float]] = {}

    def arrived(self, seconds: float) -> None:
        """A neighbour's last chunk came so long after my half-step (at least 0; late ones at their true time)."""
        self._arrivals.append(max(0.0, seconds))

    def stepped(self, block: int, seconds: float) -> None:
        """A whole step of ``block`` took so long.

        Only of steps in which every neighbour was at least heard. A step that waits in vain for somebody who has
        not computed as far must not lengthen the next wait; one that waits for the network may, until it fits.
        """
        self._steps.setdefault(block, deque(maxlen=HISTORY)).append(seconds)

    def deadline(self, block: int, computed: float) -> float:
        """For this step; ``computed`` is how long my own half-step took, which stands in for S at first."""
        steps = self._steps.get(block)
        return deadline(list(self._arrivals), max(median(steps) if steps else 0.0, computed))
