"""How long a peer that is done stays for others."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from support.cluster import simulated

from decad.daemon import waiting
from decad.daemon.progress import Progress
from decad.wire.counters import ByteCounter

LOOK_S = 1.0
"""Virtual seconds between two changes in the neighbourhood."""
TIMER_S = 0.01
"""What a timer may be late on the virtual clock."""


def network(given: ByteCounter, fetched: int, behind: bool = True) -> Any:
    """Of neighbours that fetch ``fetched`` bytes whenever one looks."""

    async def wait_change() -> None:
        given.count_fetch(fetched)
        await asyncio.sleep(LOOK_S)

    near = SimpleNamespace(anybody_before=lambda step: behind, wait_change=wait_change)
    return SimpleNamespace(neighbourhood=near)


async def lingered(fetched: int, behind: bool = True) -> float:
    given, loop = ByteCounter(), asyncio.get_running_loop()
    begun = loop.time()
    await waiting.linger(network(given, fetched, behind), Progress(), asyncio.Event(), given)
    return loop.time() - begun


@simulated
async def test_nobody_behind_is_nobody_to_stay_for() -> None:
    assert await lingered(0, behind=False) == 0


@simulated
async def test_one_that_fetches_nothing_is_stayed_for_once() -> None:
    assert await lingered(0) == pytest.approx(waiting.LINGER_S, abs=TIMER_S)


@simulated
async def test_one_that_fetches_is_stayed_for_longer_but_not_for_ever() -> None:
    assert await lingered(1) == pytest.approx(waiting.LONGEST_S, abs=TIMER_S)
