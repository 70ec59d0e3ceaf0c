"""What every transport promises (decad.wire.transport), asked of both twins by one suite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from decad.errors import InternalError, LinkClosed, NetworkError
from decad.membership.identity import Identity
from decad.trust.credentials import Credentials
from decad.trust.secret import RunSecrets, new_secret, write_secrets
from decad.wire.grpc_transport import GrpcTransport
from decad.wire.limits import MAX_MESSAGE_BYTES
from decad.wire.memory import MemoryNetwork, MemoryTransport
from decad.wire.transport import Channel, Link, Transport

PATIENCE_S = 5.0
CHANNELS = ("control", "blocks", "fetch")


@dataclass
class Pair:
    """A dialling and a listening transport; ``links`` gets each accepted link, which lives until ``free``."""

    dialler: Transport
    listener: Transport
    links: asyncio.Queue[Link] = field(default_factory=asyncio.Queue)
    free: asyncio.Event = field(default_factory=asyncio.Event)
    address: str = ""

    async def on_link(self, link: Link) -> None:
        self.links.put_nowait(link)
        await self.free.wait()

    async def link(self) -> tuple[Link, Link]:
        """Both ends of a new link: dialled, accepted."""
        dialled = await self.dialler.dial(self.address, PATIENCE_S)
        return dialled, await asyncio.wait_for(self.links.get(), PATIENCE_S)


def transports(kind: str, secret: Path) -> tuple[Transport, Transport]:
    if kind == "grpc":
        return GrpcTransport(), GrpcTransport()
    if kind == "grpc with TLS":
        write_secrets(secret, RunSecrets((new_secret(),), ()), replace=False)
        one, other = (GrpcTransport(Credentials(Identity.generate(), secret)) for _ in range(2))
        return one, other
    network = MemoryNetwork()
    return MemoryTransport(network, "127.0.0.1"), MemoryTransport(network, "127.0.0.1")


@pytest.fixture(params=["grpc", "grpc with TLS", "memory"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    pair = Pair(*transports(request.param, tmp_path / "secret"))
    pair.address = await pair.listener.listen("127.0.0.1:0", pair.on_link)
    yield pair
    pair.free.set()
    await pair.dialler.close()
    await pair.listener.close()


async def within(awaitable: Awaitable[object], seconds: float = PATIENCE_S) -> object:
    async with asyncio.timeout(seconds):
        return await awaitable


async def fill(channel: Channel) -> int:
    """Send until the link ends; how many messages were taken."""
    taken = 0
    try:
        while True:
            await channel.send(bytes(1 << 20))
            taken += 1
    except LinkClosed:
        return taken


@pytest.mark.parametrize("name", CHANNELS)
async def test_messages_arrive_whole_and_in_order_both_ways(pair: Pair, name: str) -> None:
    ends = [getattr(end, name) for end in await pair.link()]
    sent = [bytes([n]) * n for n in range(20)]

    async def send(channel: Channel) -> None:
        for message in sent:
            await channel.send(message)

    sending = [asyncio.create_task(send(end)) for end in ends]
    for end in ends:
        assert [await end.receive() for _ in sent] == sent
    await asyncio.gather(*sending)


async def test_the_largest_message_arrives(pair: Pair) -> None:
    dialled, accepted = await pair.link()
    sending = asyncio.create_task(dialled.blocks.send(bytes(MAX_MESSAGE_BYTES)))
    assert len(await accepted.blocks.receive()) == MAX_MESSAGE_BYTES
    await sending


async def test_a_larger_message_is_a_bug_of_the_sender(pair: Pair) -> None:
    dialled, _ = await pair.link()
    with pytest.raises(InternalError):
        await dialled.blocks.send(bytes(MAX_MESSAGE_BYTES + 1))


async def test_channels_do_not_delay_one_another(pair: Pair) -> None:
    dialled, accepted = await pair.link()
    stuck = asyncio.create_task(fill(dialled.blocks))
    await within(dialled.control.send(b"beacon"))
    assert await within(accepted.control.receive()) == b"beacon"
    await dialled.close()
    await within(stuck)


async def test_a_sender_waits_for_a_receiver_that_does_not_receive(pair: Pair) -> None:
    dialled, accepted = await pair.link()
    for sender in (dialled, accepted):
        filling = asyncio.create_task(fill(sender.blocks))
        done, _ = await asyncio.wait({filling}, timeout=0.2)
        assert not done
    await dialled.close()
    await accepted.close()
    assert await within(filling)
    assert filling.result() < 64


@pytest.mark.parametrize("closer", [0, 1])
async def test_what_was_sent_before_a_close_arrives(pair: Pair, closer: int) -> None:
    ends = await pair.link()
    await ends[closer].control.send(b"goodbye")
    closing = asyncio.create_task(ends[closer].close())
    assert await within(ends[1 - closer].control.receive()) == b"goodbye"
    with pytest.raises(LinkClosed):
        await within(ends[1 - closer].control.receive())
    await within(closing)


@pytest.mark.parametrize("closer", [0, 1])
async def test_close_ends_what_is_in_progress_at_both_ends(pair: Pair, closer: int) -> None:
    ends = await pair.link()
    receiving = [asyncio.create_task(getattr(end, name).receive()) for end in ends for name in CHANNELS]
    await asyncio.sleep(0)
    await within(ends[closer].close(), 1.0)
    pair.free.set()
    results = await within(asyncio.gather(*receiving, return_exceptions=True), 1.0)
    assert isinstance(results, list)
    assert all(isinstance(result, LinkClosed) for result in results)


async def test_close_ends_sends_that_wait(pair: Pair) -> None:
    dialled, accepted = await pair.link()
    filling = [asyncio.create_task(fill(end.blocks)) for end in (dialled, accepted)]
    await asyncio.wait(filling, timeout=0.1)
    await within(accepted.close(), 1.0)
    await within(dialled.close(), 1.0)
    await within(asyncio.gather(*filling), 1.0)


async def test_close_twice_is_close_once(pair: Pair) -> None:
    dialled, accepted = await pair.link()
    await within(asyncio.gather(dialled.close(), dialled.close(), accepted.close(), accepted.close()))
    await within(dialled.close())


async def test_a_closed_link_raises_at_once(pair: Pair) -> None:
    dialled, _ = await pair.link()
    await dialled.close()
    with pytest.raises(LinkClosed, match="closed here"):
        await dialled.control.send(b"late")
    with pytest.raises(LinkClosed, match="closed here"):
        await dialled.control.receive()


async def test_the_link_ends_when_on_link_returns(pair: Pair) -> None:
    dialled, _ = await pair.link()
    pair.free.set()
    with pytest.raises(LinkClosed, match="closed"):
        await within(dialled.control.receive())


async def test_the_link_ends_when_on_link_raises(pair: Pair) -> None:
    async def refuse(link: Link) -> None:
        raise LinkClosed("not today")

    address = await pair.listener.listen("127.0.0.1:0", refuse)
    dialled = await pair.dialler.dial(address, PATIENCE_S)
    with pytest.raises(LinkClosed):
        await within(dialled.control.receive())


async def test_a_bug_in_on_link_is_reported(pair: Pair) -> None:
    reported: asyncio.Queue[object] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.put_nowait(context["exception"]))

    async def broken(link: Link) -> None:
        raise ZeroDivisionError

    try:
        address = await pair.listener.listen("127.0.0.1:0", broken)
        await pair.dialler.dial(address, PATIENCE_S)
        assert isinstance(await within(reported.get()), ZeroDivisionError)
    finally:
        loop.set_exception_handler(None)


async def test_ends_know_who_dialled_and_the_other_s_address(pair: Pair) -> None:
    dialled, accepted = await pair.link()
    assert (dialled.dialled, accepted.dialled) == (True, False)
    assert dialled.address == pair.address
    assert accepted.address.startswith("127.0.0.1:")
    assert accepted.address != pair.address


async def test_nobody_there_is_said_quickly(pair: Pair) -> None:
    address = await pair.listener.listen("127.0.0.1:0", pair.on_link)
    await pair.listener.close()
    with pytest.raises(LinkClosed, match=f"{address}: connection refused"):
        await within(pair.dialler.dial(address, PATIENCE_S), 2.0)


async def test_a_taken_port_is_an_error_that_names_it(pair: Pair) -> None:
    with pytest.raises(NetworkError, match=f"cannot listen on {pair.address}: address already in use"):
        await pair.dialler.listen(pair.address, pair.on_link)


async def test_a_transport_closes_quickly_with_links_in_every_state(pair: Pair) -> None:
    dialled, accepted = await pair.link()
    await pair.link()
    busy = [
        asyncio.create_task(fill(dialled.blocks)),
        asyncio.create_task(fill(accepted.fetch)),
    ]
    waiting = [asyncio.create_task(end.control.receive()) for end in (dialled, accepted)]
    await asyncio.wait(busy, timeout=0.05)
    await within(pair.listener.close(), 1.0)
    await within(pair.dialler.close(), 1.0)
    await within(asyncio.gather(*busy, *waiting, return_exceptions=True), 1.0)


async def test_a_cancelled_receiver_is_cancelled(pair: Pair) -> None:
    dialled, _ = await pair.link()
    receiving = asyncio.create_task(dialled.control.receive())
    await asyncio.sleep(0)
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving


async def test_many_links_at_once(pair: Pair) -> None:
    links = await within(asyncio.gather(*(pair.dialler.dial(pair.address, PATIENCE_S) for _ in range(20))))
    assert isinstance(links, list)
    for number, link in enumerate(links):
        await link.fetch.send(bytes([number]))
    got = set()
    for _ in links:
        accepted = await within_link(pair.links.get)
        got.add(await accepted.fetch.receive())
    assert got == {bytes([number]) for number in range(20)}


async def within_link(get: Callable[[], Awaitable[Link]]) -> Link:
    async with asyncio.timeout(PATIENCE_S):
        return await get()
