"""The watchdog: says where a stuck daemon is stuck, and keeps quiet about one that is not."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Iterator
from itertools import count

import pytest

from decad.daemon.watchdog import Watchdog

TICK_S = 0.01


class Told:
    """What the operator was told."""

    def __init__(self) -> None:
        self.notices: asyncio.Queue[str] = asyncio.Queue()

    def __call__(self, text: str) -> None:
        self.notices.put_nowait(text)

    async def next(self) -> str:
        async with asyncio.timeout(20):
            return await self.notices.get()


class Logged(logging.Handler):
    """Sets ``stuck`` when the log says that the daemon is, on whatever thread."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck = threading.Event()
        self.text = ""
        self.first_lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage()
        self.first_lines.append(record.getMessage().partition(":")[0].partition("\n")[0])
        if "is stuck" in record.getMessage():
            self.stuck.set()


@pytest.fixture
def logged() -> Iterator[Logged]:
    handler = Logged()
    logger = logging.getLogger("decad")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


async def test_a_loop_that_is_held_up_is_told_with_its_stack(logged: Logged) -> None:
    told = Told()

    def hold_up_the_loop() -> None:
        assert logged.stuck.wait(20)

    with Watchdog(count().__next__, lambda: math.inf, told, tick_s=TICK_S, loop_s=0.1):
        await asyncio.sleep(0)
        hold_up_the_loop()
        assert "the event loop has been held up" in await told.next()
    assert "hold_up_the_loop" in logged.text


async def test_a_task_that_nothing_moves_is_told_with_its_stack(logged: Logged) -> None:
    told = Told()

    async def wait_for_a_lost_message() -> None:
        await asyncio.Event().wait()

    waiting = asyncio.create_task(wait_for_a_lost_message(), name="the trainer")
    with Watchdog(lambda: 7, lambda: 0.1, told, tick_s=TICK_S, loop_s=60):
        assert "nothing has moved for" in await told.next()
    waiting.cancel()
    assert "task the trainer" in logged.text
    assert "wait_for_a_lost_message" in logged.text


async def test_a_stuck_daemon_is_told_once_until_it_moves(logged: Logged) -> None:
    told, pulse = Told(), [0]
    with Watchdog(lambda: pulse[0], lambda: 0.1, told, tick_s=TICK_S, loop_s=60) as watchdog:
        assert watchdog.sound
        await told.next()
        assert not watchdog.sound
        pulse[0] += 1
        await told.next()
    assert logged.first_lines == ["the daemon is stuck", "the daemon moves again", "the daemon is stuck"]


async def test_what_moves_or_may_wait_for_ever_is_not_stuck(logged: Logged) -> None:
    ticked = asyncio.Event()
    loop, ticks = asyncio.get_running_loop(), count()

    def pulse() -> int:
        if next(ticks) == 30:
            loop.call_soon_threadsafe(ticked.set)
        return 0

    with (
        Watchdog(pulse, lambda: math.inf, Told(), tick_s=TICK_S, loop_s=60),
        Watchdog(count().__next__, lambda: 5 * TICK_S, Told(), tick_s=TICK_S, loop_s=60),
    ):
        async with asyncio.timeout(20):
            await ticked.wait()
    assert not logged.text


async def test_the_thread_ends_with_the_context() -> None:
    with Watchdog(lambda: 0, lambda: math.inf, Told(), tick_s=TICK_S) as watchdog:
        pass
    await asyncio.to_thread(watchdog._thread.join, 20)
    assert not watchdog._thread.is_alive()
