"""Cables that lose, delay and hold back, networks that split, interfaces that go down: training goes on and heals."""

from __future__ import annotations

import time

import pytest
from support.fault_table import Row
from support.swarm import MakeSwarm, Swarm

pytestmark = [pytest.mark.netns, pytest.mark.timeout(600)]

MEANWHILE = 20
"""Steps that everybody must take while a cable is bad."""
MEGABIT = 125_000
"""Bytes a second."""


def _bad_cable(s: Swarm, row: Row, injections: int, **figures: float) -> None:
    """Train with a bad cable at c, which is mended then; nobody stops meanwhile."""
    s.begin()
    for _ in range(injections):
        s.net.worsen(s.number("c"), **figures)
        row.injected += 1
        s.go_on(s.names, MEANWHILE)
        s.net.mend(s.number("c"))
        began = time.monotonic()
        row.recovered_s.append(s.until_together() - began)
    row.lost += s.finish()
    assert not row.lost


@pytest.mark.slow
@pytest.mark.parametrize("percent", [1, 5, 20])
def test_loss(swarm: MakeSwarm, row: Row, injections: int, percent: int) -> None:
    """{percent} % of the frames lost each way at one of three."""
    _bad_cable(swarm("abc"), row, injections, loss=percent / 100)


@pytest.mark.slow
def test_delay(swarm: MakeSwarm, row: Row, injections: int) -> None:
    """200 ms of delay each way at one of three."""
    _bad_cable(swarm("abc"), row, injections, delay_s=0.2)


@pytest.mark.slow
def test_narrow(swarm: MakeSwarm, row: Row, injections: int) -> None:
    """1 Mbit/s each way at one of three."""
    _bad_cable(swarm("abc"), row, injections, bytes_per_s=MEGABIT)


def test_split(swarm: MakeSwarm, row: Row, injections: int) -> None:
    """Split into two and two, then healed."""
    s = swarm("abcd", pace=0.1)
    s.begin()
    for _ in range(injections):
        at = time.monotonic()
        s.net.split(s.number("c"), s.number("d"))
        row.injected += 1
        halves = {"ab": "[cd]", "cd": "[ab]"}
        row.noticed_s.append(
            max(
                s.noticed(h, rf"went on without .*\b{o} \(|^{o} \(\w+\) is suspect", at)
                for h, o in halves.items()
            )
        )
        row.gone_s.append(max(s.until_state("ab", o, "gone", at) for o in "cd"))
        for half in halves:
            s.until_together(half)
        s.net.join()
        began = time.monotonic()
        row.recovered_s.append(s.until_together() - began)
    row.lost += s.finish()
    assert not row.lost


@pytest.mark.slow
def test_interface_down(swarm: MakeSwarm, row: Row, injections: int) -> None:
    """Interface of one of three down, and up again."""
    s = swarm("abc")
    s.begin()
    for _ in range(injections):
        at = time.monotonic()
        s.net.down(s.number("c"))
        row.injected += 1
        row.noticed_s.append(s.noticed("ab", r"went on without [^:]*\bc \(|^c \(\w+\) is suspect", at))
        row.gone_s.append(s.until_state("ab", "c", "gone", at))
        s.until_together("ab")
        s.go_on("c", MEANWHILE)
        s.net.up(s.number("c"))
        began = time.monotonic()
        row.recovered_s.append(s.until_together() - began)
    row.lost += s.finish()
    assert not row.lost
