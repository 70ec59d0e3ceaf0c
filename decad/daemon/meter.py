"""Bytes a second over the last ten seconds."""

from __future__ import annotations

import time
from collections import deque

SPAN_S = 10


class Meter:
    """Sums what is added in buckets of one second."""

    def __init__(self) -> None:
        self._buckets: deque[tuple[int, int]] = deque(maxlen=SPAN_S + 1)

    def add(self, amount: int) -> None:
        second = int(time.monotonic())
        if self._buckets and self._buckets[-1][0] == second:
            amount += self._buckets.pop()[1]
        self._buckets.append((second, amount))

    def per_second(self) -> float:
        """The mean rate over the whole span."""
        since = int(time.monotonic()) - SPAN_S
        return sum(amount for second, amount in self._buckets if second > since) / SPAN_S
