"""Blocks from several donors at once: from all of them, and in spite of those that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import pytest
from support.exchanges import settled

from decad.core.blocks import BlockPlan
from decad.daemon.download import Download
from decad.daemon.fetch import Donation, FetchPort, PartialBlock
from decad.errors import PeerError, PoisonError

ELEMENTS = 4
PLAN = BlockPlan.build([(f"b{i}", [f"w{i}"]) for i in range(30)], {f"w{i}": (ELEMENTS,) for i in range(30)})


Take = Callable[[int, Donation], Awaitable[bool]]


async def gather(ports: Mapping[str, FetchPort], blocks: Iterable[int], take: Take) -> list[int]:
    return await Download(PLAN).fetch(ports, blocks, take)


class Port(FetchPort):
    """A donor without a link: gives ``good`` blocks, then fails; waits for ``go`` before each answer.

    Its values are ``off`` from what they should be.
    """

    def __init__(self, good: int = 1 << 30, go: asyncio.Event | None = None, off: float = 0.0) -> None:
        self.off = off
        self.blamed: list[PeerError] = []
        self.asked: list[int] = []
        self.partials: list[PartialBlock] = []
        self._good, self._go = good, go

    async def fetch(self, block: int, partial: PartialBlock) -> Donation:
        self.asked.append(block)
        self.partials.append(partial)
        if self._go is not None:
            await self._go.wait()
        await asyncio.sleep(0)
        if len(self.asked) > self._good:
            raise PoisonError("damaged")
        partial.values.fill_(block + 1 + self.off)
        return Donation(partial.values, 7, False)

    def blame(self, error: PeerError) -> None:
        self.blamed.append(error)


def into(taken: dict[int, Donation]) -> Take:
    async def take(block: int, donation: Donation) -> bool:
        assert block not in taken
        taken[block] = donation
        return True

    return take


async def test_blocks_come_from_all_donors() -> None:
    ports = {name: Port() for name in "abc"}
    taken: dict[int, Donation] = {}
    assert await gather(ports, range(30), into(taken)) == []
    assert sorted(taken) == list(range(30))
    assert all(len(port.asked) >= 5 for port in ports.values())


async def test_a_donor_that_fails_is_asked_no_more_and_another_gives_its_block() -> None:
    bad, good = Port(good=1), Port()
    taken: dict[int, Donation] = {}
    assert await gather({"bad": bad, "good": good}, range(6), into(taken)) == []
    assert sorted(taken) == list(range(6))
    assert len(bad.asked) == 2


async def test_a_donor_that_fails_last_is_made_up_for_by_those_who_have_finished() -> None:
    go = asyncio.Event()
    bad, good = Port(good=0, go=go), Port()
    taken: dict[int, Donation] = {}
    fetching = asyncio.create_task(gather({"bad": bad, "good": good}, range(3), into(taken)))
    await settled()
    assert len(taken) == 2
    go.set()
    assert await fetching == []
    assert sorted(taken) == [0, 1, 2]


async def test_what_nobody_can_give_is_returned() -> None:
    taken: dict[int, Donation] = {}
    left = await gather({"a": Port(good=1), "b": Port(good=1)}, range(5), into(taken))
    assert sorted([*left, *taken]) == list(range(5))
    assert len(taken) == 2
    assert await gather({}, range(5), into(taken)) == list(range(5))


async def test_giving_up_the_whole_gives_up_every_fetch() -> None:
    ports = {name: Port(go=asyncio.Event()) for name in "ab"}
    fetching = asyncio.create_task(gather(ports, range(5), into({})))
    await settled()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching


async def test_what_came_before_all_donors_failed_is_offered_to_the_next() -> None:
    download = Download(PLAN)
    first, second = Port(good=0), Port()
    assert await download.fetch({"first": first}, [5], into({})) == [5]
    assert await download.fetch({"second": second}, [5], into({})) == []
    assert second.partials == first.partials


async def test_a_copy_unlike_those_of_two_others_is_not_taken_and_its_donor_blamed() -> None:
    ports = {
        "liar": Port(off=1.0),
        **{name: Port(off=offset) for name, offset in (("b", 1e-4), ("c", -1e-4))},
    }
    taken: dict[int, Donation] = {}
    assert await gather(ports, range(9), into(taken)) == []
    assert {block: round(given.values[0].item()) for block, given in taken.items()} == {
        block: block + 1 for block in range(9)
    }
    assert len(ports["liar"].blamed) == 1
    assert not ports["b"].blamed + ports["c"].blamed


async def test_copies_that_differ_as_honest_ones_do_are_taken() -> None:
    ports = {str(place): Port(off=offset) for place, offset in enumerate((0.0, 0.02, 0.05, 0.07))}
    taken: dict[int, Donation] = {}
    assert await gather(ports, range(9), into(taken)) == []
    assert not any(port.blamed for port in ports.values())


async def test_who_gives_what_is_too_old_is_not_asked_again_and_another_is() -> None:
    old, new = Port(off=0.5), Port()
    taken = list[int]()

    async def take(block: int, donation: Donation) -> bool:
        fresh = donation.values[0].item() == block + 1
        taken.extend([block] if fresh else [])
        return fresh

    assert await gather({"old": old, "new": new}, range(6), take) == []
    assert sorted(taken) == list(range(6))
    assert len(old.asked) == 1


async def test_who_failed_before_is_asked_last() -> None:
    download, bad, good = Download(PLAN), Port(good=0), Port()
    for _ in range(6):
        assert await download.fetch({"bad": bad, "good": good}, [1, 2], into({})) == []
    assert 0 < len(bad.asked) <= 3
