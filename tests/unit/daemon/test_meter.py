"""Bytes a second over the last ten seconds, on a clock that the test turns."""

from __future__ import annotations

import pytest

from decad.daemon import meter
from decad.daemon.meter import SPAN_S, Meter


class Clock:
    now = 1000.5

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(meter, "time", clock)
    return clock


def test_nothing_yet(clock: Clock) -> None:
    assert Meter().per_second() == 0


def test_the_mean_over_the_span(clock: Clock) -> None:
    meter = Meter()
    for _ in range(5):
        meter.add(30)
        meter.add(70)
        clock.now += 1
    assert meter.per_second() == 500 / SPAN_S


def test_what_is_older_is_forgotten(clock: Clock) -> None:
    meter = Meter()
    meter.add(1000)
    clock.now += SPAN_S - 1
    meter.add(10)
    assert meter.per_second() == 1010 / SPAN_S
    clock.now += 1
    assert meter.per_second() == 10 / SPAN_S
    clock.now += 100
    assert meter.per_second() == 0


def test_a_steady_rate_is_that_rate(clock: Clock) -> None:
    meter = Meter()
    for _ in range(3 * SPAN_S):
        meter.add(250)
        clock.now += 1
    clock.now -= 1
    assert meter.per_second() == 250


def test_many_small_messages_need_no_more_memory(clock: Clock) -> None:
    meter = Meter()
    for _ in range(100_000):
        meter.add(1)
        clock.now += 0.01
    assert len(meter._buckets) <= SPAN_S + 1
