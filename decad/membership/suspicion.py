"""How long a peer may be silent: a formula, and the gaps between beacons that feed it."""

from __future__ import annotations

import heapq
import statistics
from collections import deque
from collections.abc import Collection
from typing import NamedTuple

BEACON_S = 0.5
"""Seconds between two beacons of a peer that has nothing else to say: the longest there are."""

GAPS_KEPT = 64
"""Gaps that count: half a minute of a quiet peer, so that a change of its habits is learnt within that
time."""

SPREAD = 6.0
"""Median absolute deviations above the median that are still usual. For normally distributed gaps this is
four standard deviations, one false suspicion in some hours."""

AGAIN = 1.25
"""Silence as long as it was twice before, and a quarter more, is usual: behind every block on a narrow line."""

SUSPECT_FLOOR_S = 2.0
"""Never suspect earlier: a machine with all cores busy leaves gaps of 1.5 s among beacons that come on
time."""

SUSPECT_CEILING_S = 10.0
"""Never suspect later, however slow the network, and whatever gaps a peer chooses to leave."""


class Patience(NamedTuple):
    """Seconds of silence after which a peer is suspected, and after which it is taken for gone."""

    suspect_s: float
    gone_s: float


def patience(gaps: Collection[float]) -> Patience:
    """Deadlines from the last gaps between a peer's beacons, in seconds.

        usual   = median(gaps) + SPREAD * MAD(gaps), at least AGAIN * second largest gap
                                                                        (BEACON_S while there are none)
        suspect = usual, no less than SUSPECT_FLOOR_S, no more than SUSPECT_CEILING_S
        gone    = 2 * suspect

    On a LAN the gaps are BEACON_S and hardly vary: 2 s and 4 s. The bounds of ``gone`` are 4 s and 20 s.
    """
    usual = BEACON_S
    if gaps:
        median = statistics.median(gaps)
        usual = median + SPREAD * statistics.median(abs(gap - median) for gap in gaps)
        usual = max(usual, AGAIN * min(heapq.nlargest(2, gaps)) if len(gaps) > 1 else 0.0)
    suspect = min(max(usual, SUSPECT_FLOOR_S), SUSPECT_CEILING_S)
    return Patience(suspect, 2 * suspect)


class Hearing:
    """The gaps between a peer's beacons, and what patience they have earned it. Times in seconds,
    monotonic."""

    def __init__(self) -> None:
        self._gaps: deque[float] = deque(maxlen=GAPS_KEPT)
        self._last: float | None = None
        self.patience = patience(())

    def heard(self, now: float) -> None:
        """A beacon came."""
        if self._last is not None:
            self._gaps.append(now - self._last)
            self.patience = patience(self._gaps)
        self._last = now

    def interrupted(self) -> None:
        """The link ended: the time until the next beacon says nothing about the peer's habits."""
        self._last = None
