"""The faults that a simulation injects into the in-memory network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from decad.errors import LinkClosed
from decad.wire.memory import MemoryNetwork, MemoryTransport
from decad.wire.transport import Link


class Hosts:
    """Three hosts; b accepts links, which live until the test ends."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.a, self.b, self.c = (MemoryTransport(self.network, name) for name in "abc")
        self.accepted: list[Link] = []
        self.free = asyncio.Event()

    async def on_link(self, link: Link) -> None:
        self.accepted.append(link)
        await self.free.wait()


@pytest.fixture
async def hosts() -> AsyncIterator[Hosts]:
    hosts = Hosts()
    await hosts.b.listen("b:1", hosts.on_link)
    yield hosts
    hosts.free.set()
    for transport in (hosts.a, hosts.b, hosts.c):
        await transport.close()


@pytest.mark.parametrize("sides", [("a", "b"), ("b", "a")])
async def test_a_cut_ends_links_at_both_ends_and_loses_what_was_under_way(
    hosts: Hosts, sides: tuple[str, str]
) -> None:
    link = await hosts.a.dial("b:1", 1)
    await asyncio.sleep(0)
    await link.control.send(b"lost")
    hosts.network.cut(*sides)
    for end in (link, hosts.accepted[0]):
        with pytest.raises(LinkClosed, match="the network was cut"):
            await end.control.receive()


async def test_a_cut_stops_dials_between_the_two_alone_until_it_heals(hosts: Hosts) -> None:
    hosts.network.cut("a", "b")
    with pytest.raises(LinkClosed, match="no route"):
        await hosts.a.dial("b:1", 1)
    await hosts.c.dial("b:1", 1)
    hosts.network.heal("b", "a")
    await hosts.a.dial("b:1", 1)


async def test_a_killed_host_is_gone_until_it_listens_again(hosts: Hosts) -> None:
    link = await hosts.a.dial("b:1", 1)
    hosts.network.kill("b")
    with pytest.raises(LinkClosed, match="reset"):
        await link.blocks.receive()
    with pytest.raises(LinkClosed, match="refused"):
        await hosts.a.dial("b:1", 1)
    again = MemoryTransport(hosts.network, "b")
    await again.listen("b:1", hosts.on_link)
    await hosts.a.dial("b:1", 1)
    await again.close()
