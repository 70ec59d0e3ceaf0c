"""Neighbours that seem to train and bring nothing: counted out of most steps, so that they thin nobody's mixing.

A step's mixing weights fall with the number of neighbours that it counts on, and each of them is sent the block. Who
has brought no whole message for many steps and some time is counted on in every `PROBE`-th step only, by all at the
same step, until it brings one (docs/protocol.md, docs/adr/0017).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

PROBE = 64
"""Steps without a whole message after which a neighbour is absent; absent ones are counted on in each step that this
divides."""
LEAST_S = 30.0
"""And so many seconds: a peer that computes much more slowly brings something now and then."""
REMEMBERED = 1024
"""Neighbours of which this is known, also when their links end: else they would only have to come back."""


@dataclass
class _Without:
    steps: int
    since: float


class Absence:
    """Of all neighbours of one peer. Times in seconds, of one clock."""

    def __init__(self) -> None:
        self._without: dict[str, _Without] = {}

    def counted(self, missing: Collection[str], now: float) -> None:
        """A step that counted on these ended, and had nothing whole of them."""
        for neighbour in missing:
            if neighbour not in self._without:
                if len(self._without) >= REMEMBERED:
                    del self._without[next(iter(self._without))]
                self._without[neighbour] = _Without(0, now)
            self._without[neighbour].steps += 1

    def brought(self, neighbour: str) -> None:
        """A whole message came, of whatever step."""
        self._without.pop(neighbour, None)

    def absent(self, neighbour: str, now: float) -> bool:
        """Whether this neighbour has brought nothing for so long that it is hardly counted on."""
        without = self._without.get(neighbour)
        return without is not None and without.steps >= PROBE and now - without.since >= LEAST_S

    def counts(self, neighbour: str, step: int, now: float) -> bool:
        """Whether ``step`` counts on this neighbour."""
        return step % PROBE == 0 or not self.absent(neighbour, now)
