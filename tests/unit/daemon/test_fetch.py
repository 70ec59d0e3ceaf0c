"""Blocks for joiners: served whole, checked, asked of another donor when one fails; and no end of a link is missed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable

import pytest
import torch
from support.exchanges import settled
from torch import Tensor

from decad._proto import peer_pb2 as pb
from decad.core.blocks import BlockPlan
from decad.core.memory import bytes_of
from decad.daemon import fetch
from decad.daemon.fetch import Donation, FetchPort, PartialBlock, ReadBlock
from decad.errors import LinkClosed, PeerError, PoisonError, ProtocolError
from decad.wire import messages
from decad.wire.counters import ByteCounter, Traffic
from decad.wire.memory import MemoryNetwork, MemoryTransport
from decad.wire.transport import Link

ELEMENTS = 50
PLAN = BlockPlan.build([(f"b{i}", [f"w{i}"]) for i in range(4)], {f"w{i}": (ELEMENTS,) for i in range(4)})


def values_of(block: int) -> Tensor:
    return torch.arange(ELEMENTS, dtype=torch.float32) + 100 * block


async def give(block: int) -> Donation:
    return Donation(values_of(block), step=7 + block, active=block == 1)


async def give_nothing(block: int) -> Donation:
    raise PeerError("this peer \x1b[2Jhas not begun to train")


async def give_never(block: int) -> Donation:
    await asyncio.Event().wait()
    raise AssertionError


class Ends:
    """A link, and ports that run on its ends."""

    def __init__(self, near: Link, far: Link) -> None:
        self.near, self.far = near, far
        self.counters: dict[FetchPort, tuple[ByteCounter, ByteCounter]] = {}
        self._runs: dict[FetchPort, asyncio.Task[None]] = {}

    def port(self, link: Link, read: ReadBlock = give) -> FetchPort:
        traffic = Traffic()
        port = FetchPort(link.fetch, PLAN, read, traffic)
        self.counters[port] = traffic.sent, traffic.received
        self._runs[port] = asyncio.create_task(self._run(port, link))
        return port

    async def _run(self, port: FetchPort, link: Link) -> None:
        try:
            await port.run()
        finally:
            await link.close()

    async def error(self, port: FetchPort) -> PeerError:
        """Why the port's link ended."""
        async with asyncio.timeout(5):
            await asyncio.wait({self._runs[port]})
        failure: BaseException | None = self._runs.pop(port).exception()
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        assert isinstance(failure, PeerError)
        return failure

    async def close(self) -> None:
        await self.near.close()
        for run in self._runs.values():  # as a session does when its control channel ends
            run.cancel()
        await asyncio.gather(*self._runs.values(), return_exceptions=True)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight chunks a block, more than a channel's window."""
    monkeypatch.setattr(fetch, "CHUNK_ELEMENTS", 7)


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    async for made in linked():
        yield made


@pytest.fixture
async def more_ends() -> AsyncIterator[Ends]:
    async for made in linked():
        yield made


async def linked() -> AsyncIterator[Ends]:
    network = MemoryNetwork()
    near, far = MemoryTransport(network, "near"), MemoryTransport(network, "far")
    accepted: asyncio.Queue[Link] = asyncio.Queue()
    over = asyncio.Event()

    async def on_link(link: Link) -> None:
        accepted.put_nowait(link)
        await over.wait()

    address = await far.listen("far:7700", on_link)
    ends = Ends(await near.dial(address, 1), await accepted.get())
    yield ends
    await ends.close()
    over.set()
    await near.close()
    await far.close()


async def soon(awaitable: Awaitable[Donation]) -> Donation:
    async with asyncio.timeout(5):
        return await awaitable


def nothing() -> PartialBlock:
    return PartialBlock(ELEMENTS)


async def failure(port: FetchPort, block: int = 0) -> PeerError:
    try:
        await soon(port.fetch(block, nothing()))
    except PeerError as error:
        return error
    raise AssertionError("the fetch succeeded")


async def test_a_block_comes_as_it_is(ends: Ends) -> None:
    joiner, donor = ends.port(ends.near), ends.port(ends.far)
    for block in (1, 0, 3):
        donation = await soon(joiner.fetch(block, nothing()))
        assert torch.equal(donation.values, values_of(block))
        assert (donation.step, donation.active) == (7 + block, block == 1)
    sent, received = ends.counters[donor]
    assert ends.counters[joiner] == (received, sent)
    assert sent.fetch == sent.total > 3 * 4 * ELEMENTS


async def test_both_ends_fetch_at_once(ends: Ends) -> None:
    ports = ends.port(ends.near), ends.port(ends.far)

    async def fetch_all(port: FetchPort) -> list[Tensor]:
        return [(await soon(port.fetch(block, nothing()))).values for block in range(4)]

    for got in await asyncio.gather(*(fetch_all(port) for port in ports)):
        assert torch.equal(torch.stack(got), torch.stack([values_of(b) for b in range(4)]))


async def test_two_fetches_of_one_link_take_turns(ends: Ends) -> None:
    joiner, _ = ends.port(ends.near), ends.port(ends.far)
    got = await asyncio.gather(*(soon(joiner.fetch(block, nothing())) for block in range(4)))
    assert [int(donation.values[0]) for donation in got] == [0, 100, 200, 300]


async def test_a_donor_that_declines_says_why_and_may_be_asked_again(ends: Ends) -> None:
    reads: list[ReadBlock] = [give_nothing, give]
    joiner = ends.port(ends.near)
    ends.port(ends.far, lambda block: reads.pop(0)(block))
    assert "cannot give block 2: this peer [2Jhas not begun to train" in str(await failure(joiner, 2))
    assert torch.equal((await soon(joiner.fetch(2, nothing()))).values, values_of(2))


async def test_values_that_are_not_finite_are_poison(ends: Ends) -> None:
    async def poisoned(block: int) -> Donation:
        return Donation(values_of(block).index_fill_(0, torch.tensor([3]), float("nan")), 0, False)

    joiner, _ = ends.port(ends.near), ends.port(ends.far, poisoned)
    assert isinstance(await failure(joiner), PoisonError)
    assert isinstance(await ends.error(joiner), PoisonError)


async def test_the_end_of_the_link_ends_a_fetch_at_once(ends: Ends) -> None:
    joiner, _ = ends.port(ends.near), ends.port(ends.far, give_never)
    fetching = asyncio.create_task(failure(joiner))
    await settled()
    await ends.far.close()
    assert isinstance(await fetching, LinkClosed)
    assert isinstance(await failure(joiner), LinkClosed)  # nor is it asked in vain later


async def test_the_end_of_a_link_that_never_served_ends_a_fetch_too(ends: Ends) -> None:
    port = FetchPort(ends.near.fetch, PLAN, give, Traffic())
    fetching = asyncio.create_task(failure(port))
    await settled()
    port.end()
    assert isinstance(await fetching, LinkClosed)


async def test_a_silent_donor_is_given_up_and_hung_up_on(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_PATIENCE_S", 0.05)
    joiner, _ = ends.port(ends.near), ends.port(ends.far, give_never)
    error = await failure(joiner)
    assert "sent nothing" in str(error)
    assert await ends.error(joiner) is error
    assert isinstance(await failure(joiner), LinkClosed)


async def test_a_fetch_that_is_cancelled_ends_the_link(ends: Ends) -> None:
    joiner, _ = ends.port(ends.near), ends.port(ends.far, give_never)
    fetching = asyncio.create_task(joiner.fetch(0, nothing()))
    await settled()
    fetching.cancel()
    await asyncio.wait({fetching})
    assert isinstance(await ends.error(joiner), LinkClosed)


async def test_a_request_for_no_block_ends_the_link(ends: Ends) -> None:
    donor = ends.port(ends.near)
    await ends.far.fetch.send(pb.FetchMessage(request=pb.FetchRequest(block=4)).SerializeToString())
    assert isinstance(await ends.error(donor), ProtocolError)


async def test_garbage_ends_the_link(ends: Ends) -> None:
    port = ends.port(ends.near)
    await ends.far.fetch.send(b"\xff" * 9)
    assert isinstance(await ends.error(port), ProtocolError)


async def test_what_nobody_asked_for_is_dropped(ends: Ends) -> None:
    port = ends.port(ends.near)
    for number in range(20):
        await ends.far.fetch.send(messages.fetch_chunk(number, bytes_of(values_of(0))))
    await settled()
    ends.port(ends.far)
    assert torch.equal((await soon(port.fetch(0, nothing()))).values, values_of(0))


async def test_more_requests_than_are_served_are_not_kept(ends: Ends) -> None:
    reads = 0

    async def counted(block: int) -> Donation:
        nonlocal reads
        reads += 1
        return await give_never(block)

    ends.port(ends.near, counted)
    request = pb.FetchMessage(request=pb.FetchRequest(block=0)).SerializeToString()
    taken = 0

    async def flood() -> None:
        nonlocal taken
        while True:
            await ends.far.fetch.send(request)
            taken += 1

    flooding = asyncio.create_task(flood())
    await settled()
    assert not flooding.done()
    assert taken < 10
    assert reads == 1
    flooding.cancel()


# -- a donor whose answers are written by hand --------------------------------------------------------------


def digests(block: int = 0) -> list[bytes]:
    return [
        hashlib.sha256(bytes_of(values_of(block)[start : start + 7])).digest()
        for start in range(0, ELEMENTS, 7)
    ]


def header(**changed: int | list[bytes]) -> bytes:
    fields: dict[str, int | list[bytes]] = {
        "block": 0,
        "elements": ELEMENTS,
        "sha256": digests(),
        **changed,
    }
    return pb.FetchMessage(header=pb.FetchHeader(**fields)).SerializeToString()  # type: ignore[arg-type]  # by name


def chunk(index: int, values: Tensor | None = None) -> bytes:
    piece = values_of(0)[7 * index : 7 * index + 7] if values is None else values
    return messages.fetch_chunk(index, bytes_of(piece))


WHOLE = [chunk(index) for index in range(8)]


async def answer(ends: Ends, *parts: bytes) -> None:
    await ends.far.fetch.receive()
    for part in parts:
        await ends.far.fetch.send(part)


async def test_an_answer_by_hand_is_taken(ends: Ends) -> None:
    joiner = ends.port(ends.near)
    _, donation = await asyncio.gather(answer(ends, header(), *WHOLE), soon(joiner.fetch(0, nothing())))
    assert torch.equal(donation.values, values_of(0))


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ([header(sha256=[*digests()[:7], b"x" * 32]), *WHOLE], PoisonError),
        ([header(), chunk(0, values_of(1)[:7]), *WHOLE[1:]], PoisonError),
        ([header(sha256=digests()[1:])], ProtocolError),
        ([header(sha256=[*digests(), b"x" * 32])], ProtocolError),
        ([header(block=1)], ProtocolError),
        ([header(elements=ELEMENTS - 1)], ProtocolError),
        ([header(elements=1 << 60)], ProtocolError),
        ([WHOLE[0]], ProtocolError),
        ([header(), WHOLE[1]], ProtocolError),
        ([header(), header()], ProtocolError),
        ([header(), chunk(0, values_of(0)[:6])], ProtocolError),
        ([header(), chunk(0, values_of(0)[:8])], ProtocolError),
    ],
)
async def test_a_bad_answer_fails_the_fetch_and_ends_the_link(
    ends: Ends, parts: list[bytes], kind: type[PeerError]
) -> None:
    joiner = ends.port(ends.near)
    _, error = await asyncio.gather(answer(ends, *parts), failure(joiner))
    assert type(error) is kind
    assert await ends.error(joiner) is error


async def test_what_a_donor_sends_after_declining_is_dropped(ends: Ends) -> None:
    joiner = ends.port(ends.near)
    declined = pb.FetchMessage(failure=pb.FetchFailure(reason="busy")).SerializeToString()
    sending = asyncio.create_task(answer(ends, declined, *WHOLE, *WHOLE))
    assert "busy" in str(await failure(joiner))
    await settled()
    await sending
    _, donation = await asyncio.gather(answer(ends, header(), *WHOLE), soon(joiner.fetch(0, nothing())))
    assert torch.equal(donation.values, values_of(0))


async def test_what_a_donor_sends_beyond_the_block_is_dropped(ends: Ends) -> None:
    joiner = ends.port(ends.near)
    for _ in range(2):
        sending = asyncio.create_task(answer(ends, header(), *WHOLE, *WHOLE))
        assert torch.equal((await soon(joiner.fetch(0, nothing()))).values, values_of(0))
        await settled()
        await sending


# -- what another donor sent already ------------------------------------------------------------------------


async def cut_off(ends: Ends, after: int) -> PartialBlock:
    """What a joiner has of block 0 when its donor dies after so many chunks."""
    partial = nothing()
    fetching = asyncio.create_task(ends.port(ends.near).fetch(0, partial))
    await answer(ends, header(), *WHOLE[:after])
    await settled()
    await ends.far.close()
    assert isinstance((await asyncio.gather(fetching, return_exceptions=True))[0], LinkClosed)
    return partial


async def chunks_sent_for(partial: PartialBlock, ends: Ends, read: ReadBlock) -> tuple[Tensor, int]:
    """The block that another donor completes, and how many values it sent for it."""
    joiner, donor = ends.port(ends.near), ends.port(ends.far, read)
    donation = await soon(joiner.fetch(0, partial))
    return donation.values, ends.counters[donor][0].fetch


async def test_a_second_donor_sends_only_what_the_first_did_not(ends: Ends, more_ends: Ends) -> None:
    partial = await cut_off(ends, after=6)
    values, sent = await chunks_sent_for(partial, more_ends, give)
    assert torch.equal(values, values_of(0))
    assert sent == len(header(step=7)) + len(WHOLE[6]) + len(WHOLE[7])


async def test_a_second_donor_whose_block_differs_sends_what_differs(ends: Ends, more_ends: Ends) -> None:
    async def other(block: int) -> Donation:
        return Donation(values_of(block).index_fill_(0, torch.tensor([10]), -1.0), 7, False)

    partial = await cut_off(ends, after=6)
    values, sent = await chunks_sent_for(partial, more_ends, other)
    assert torch.equal(values, (await other(0)).values)
    assert sent == len(header(step=7)) + len(WHOLE[1]) + len(WHOLE[6]) + len(WHOLE[7])
