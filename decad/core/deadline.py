"""How long a step waits for its neighbours: derived from what was observed, never set by hand.

For each neighbour median + max(3 MAD, 0.5 S) of its arrivals; the longest of these is the deadline, clipped to
[0.2 s, 2 S]. S is the median time of my own recent steps of this block; without history the deadline is 10 S. Who
computes less than half as fast as I do, or brought nothing whole for some steps, is not waited for until its message
begins; who is late again and again while others are not is not waited for at all for a while (docs/protocol.md,
docs/adr/0009, docs/adr/0017). All times in seconds.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable
from statistics import median
from typing import NamedTuple

HISTORY = 16
"""Arrivals of one neighbour that are remembered: a changed network shows within half as many steps."""
STEPS = 64
"""Steps of one block that are remembered: some rounds."""
SHORTEST = 0.2
"""No deadline below: a scheduler's hiccup on a busy machine takes as long."""
SLOW = 2.0
"""Times my own computation: who takes longer would cost every step of mine more than a step of mine."""

IN_TIME = 2
"""So many neighbours are to be in time before the others are blamed for being late. Not most of them: somebody with
many identities is most of a peer's neighbours."""
LATE_TIMES = 4
"""So many late messages among the last `HISTORY`, while others were in time, and one is not waited for. So
many steps in a row without a whole message, and it is waited for only once one has begun."""
FIRST_PAUSE = 256
"""Steps for which it is not waited for; four times as many each time that it happens again."""
LONGEST_PAUSE = 4096
TARDY_KEPT = 1024
"""Peers of which this is remembered, also when their links end: else they would only have to come back."""


class Arrival(NamedTuple):
    """Of one neighbour's message."""

    seconds: float
    """Its last chunk came so long after my half-step: at least 0, late ones at their true time."""
    slowness: float
    """How long its half-step took there, in half-steps of mine of the same step."""


def deadline(neighbours: Collection[Iterable[float]], step_seconds: float) -> float:
    """Seconds to wait after one's own half-step, from each neighbour's past arrivals and the median step time S."""
    if not neighbours:
        return max(SHORTEST, 10 * step_seconds)
    waits = []
    for arrivals in map(list, neighbours):
        middle = median(arrivals)
        spread = median(abs(seconds - middle) for seconds in arrivals)
        waits.append(middle + max(3 * spread, 0.5 * step_seconds))
    return max(SHORTEST, min(max(waits), 2 * step_seconds))


class _Tardiness:
    """Of one neighbour."""

    def __init__(self) -> None:
        self.late: deque[bool] = deque(maxlen=HISTORY)
        self.pause = FIRST_PAUSE
        self.left = 0
        """Steps for which it is still not waited for."""

    def step(self, late: bool) -> None:
        """One more step that counted on it."""
        if self.left:
            self.left -= 1
            return
        self.late.append(late)
        if sum(self.late) >= LATE_TIMES:
            self.left, self.pause = self.pause, min(4 * self.pause, LONGEST_PAUSE)
            self.late.clear()


class Pace:
    """What a peer remembers of its own step times and its neighbours' arrivals."""

    def __init__(self) -> None:
        self._arrivals: dict[str, deque[Arrival]] = {}
        self._steps: dict[int, deque[float]] = {}
        self._tardy: dict[str, _Tardiness] = {}
        self._without: Counter[str] = Counter()
        """Steps in a row without a whole message, by neighbour."""

    def arrived(self, neighbour: str, seconds: float, slowness: float) -> None:
        """See `Arrival`; ``seconds`` is negative for a message that was there before my half-step."""
        arrivals = self._arrivals.setdefault(neighbour, deque(maxlen=HISTORY))
        arrivals.append(Arrival(max(0.0, seconds), slowness))
        del self._without[neighbour]

    def forget(self, neighbour: str) -> None:
        """The link to this neighbour ended."""
        self._arrivals.pop(neighbour, None)
        del self._without[neighbour]

    def stepped(self, block: int, seconds: float) -> None:
        """A step of ``block`` took so long: my computation, and the network's part of the exchange.

        Not the wait until the neighbours' messages begin: who has not computed as far must not lengthen the next
        wait, or one slow peer would set the pace for all. A slow network may lengthen it, until the block fits: by the
        time that the message of the quicker half of the neighbours took, so that none can by ending its own late.
        """
        self._steps.setdefault(block, deque(maxlen=STEPS)).append(seconds)

    def counted(self, neighbours: Collection[str], missing: Collection[str], late: Collection[str]) -> None:
        """A step counted on ``neighbours``; of ``missing`` not all was mixed, ``late`` had its deadline pass.

        Unless two were in time it may be the network, or this peer, and is nobody's fault.
        """
        self._without.update(missing)
        if len(neighbours) - len(late) < IN_TIME:
            return
        for neighbour in neighbours:
            if neighbour in late and neighbour not in self._tardy:
                if len(self._tardy) >= TARDY_KEPT:
                    del self._tardy[next(iter(self._tardy))]
                self._tardy[neighbour] = _Tardiness()
            if neighbour in self._tardy:
                self._tardy[neighbour].step(neighbour in late)

    def tardy(self, neighbour: str) -> bool:
        """Whether it was late so often that it is not waited for, whether its message has begun or not."""
        return neighbour in self._tardy and self._tardy[neighbour].left > 0

    def slow(self, neighbour: str) -> bool:
        """Whether this neighbour is not to be waited for until its message begins."""
        if self._without[neighbour] >= LATE_TIMES:
            return True
        arrivals = self._arrivals.get(neighbour)
        return arrivals is not None and median(arrival.slowness for arrival in arrivals) > SLOW

    def patience(self, block: int, computed: float) -> float:
        """For a step in which nobody computes: who computes slowly has only to finish its last training step."""
        steps = self._steps.get(block)
        return max(SHORTEST, 2 * SLOW * max(median(steps) if steps else 0.0, computed))

    def deadline(self, block: int, computed: float) -> float:
        """For this step; ``computed`` is how long my own half-step took, which stands in for S at first."""
        steps = self._steps.get(block)
        awaited = [
            [arrival.seconds for arrival in arrivals]
            for neighbour, arrivals in self._arrivals.items()
            if not self.slow(neighbour) and not self.tardy(neighbour)
        ]
        return deadline(awaited, max(median(steps) if steps else 0.0, computed))
