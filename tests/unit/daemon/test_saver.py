"""Checkpoints on request: whoever asked may have gone away, and nobody else notices."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from decad.daemon.saver import Saver
from decad.errors import StateError
from decad.state.checkpoint import CheckpointStore


@pytest.fixture
def saver(tmp_path: Path) -> Saver:
    return Saver(CheckpointStore(tmp_path), lambda text: None)


async def asks(saver: Saver, count: int) -> list[asyncio.Task[int | None]]:
    clients = [asyncio.create_task(saver.requested()) for _ in range(count)]
    await asyncio.sleep(0)  # each has begun
    assert saver.owes
    return clients


@pytest.mark.parametrize("when", ["before", "while it is written"])
@pytest.mark.parametrize("fails", [False, True])
async def test_who_goes_away_changes_nothing_for_the_others(saver: Saver, when: str, fails: bool) -> None:
    gone, *others = await asks(saver, 3)
    if when == "before":
        gone.cancel()

    async def save() -> int:
        gone.cancel()
        await asyncio.sleep(0)
        if fails:
            raise StateError("the disk is full")
        return 7

    await saver.answer(save)
    for other in others:
        if fails:
            with pytest.raises(StateError, match="full"):
                await other
        else:
            assert await other == 7
    with pytest.raises(asyncio.CancelledError):
        await gone
    await saver.close()


async def test_who_asks_while_one_is_written_gets_the_next(saver: Saver) -> None:
    (first,) = await asks(saver, 1)
    later: list[asyncio.Task[int | None]] = []

    async def save() -> int:
        later.extend(await asks(saver, 1))
        await asyncio.sleep(0)
        return 1

    await saver.answer(save)
    assert await first == 1
    assert not later[0].done()

    async def again() -> int:
        return 2

    await saver.answer(again)
    assert await later[0] == 2
    await saver.close()


async def test_at_the_end_everybody_is_told_that_no_other_comes(saver: Saver) -> None:
    gone, waiting = await asks(saver, 2)
    gone.cancel()
    await asyncio.sleep(0)
    await saver.close()
    assert await waiting is None
    assert await saver.requested() is None


async def test_a_save_that_is_cut_short_leaves_its_requests_to_the_next(saver: Saver) -> None:
    (waiting,) = await asks(saver, 1)

    async def never() -> int:
        await asyncio.Event().wait()
        raise AssertionError

    answering = asyncio.create_task(saver.answer(never))
    await asyncio.sleep(0)
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering

    async def save() -> int:
        return 3

    await saver.answer(save)
    assert await waiting == 3
    await saver.close()
