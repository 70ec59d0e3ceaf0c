"""ServiceDiscovery by real multicast DNS on 127.0.0.1: other tests and daemons on this machine may be heard too."""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.mdns_peer import Driver, start_here
from zeroconf import const
from zeroconf._dns import DNSPointer
from zeroconf._protocol.outgoing import DNSOutgoing
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from decad.errors import NetworkError
from decad.membership import mdns
from decad.membership.announcement import Recognition
from decad.membership.interfaces import Choice
from decad.membership.mdns import GROUP, SERVICE, Found, Lost, ServiceDiscovery

LOOPBACK = Choice(("127.0.0.1",), ("127.0.0.1",))
EVENT_S = 20.0


class Peer:
    """A discovery and the events that concern the ports that we know, as (what happened, port)."""

    def __init__(
        self, known: set[int], run: str, any_run: bool = False, keys: tuple[bytes, ...] = (b"",)
    ) -> None:
        self.port = free_port()
        known.add(self.port)
        self.events: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

        def note(event: Found | Lost) -> None:
            for address in event.addresses:
                port = int(address.removeprefix("127.0.0.1:"))
                if port in known:
                    self.events.put_nowait(("found" if isinstance(event, Found) else "lost", port))

        recognition = Recognition(keys, run, any_run)
        self.discovery = ServiceDiscovery(self.port, recognition, LOOPBACK, note)

    async def next(self) -> tuple[str, int]:
        async with asyncio.timeout(EVENT_S):
            return await self.events.get()


def free_port() -> int:
    """Nobody listens there; it tells the announcements of one test from those of others."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def announcement(
    run: str, port: int, address: str = "127.0.0.1", **properties: str | bytes
) -> AsyncServiceInfo:
    """One by hand; ``properties`` win over what belongs there."""
    return AsyncServiceInfo(
        SERVICE,
        f"{secrets.token_hex(8)}.{SERVICE}",
        port=port,
        properties={**Recognition(run=run).sign(), **properties},
        server=f"{secrets.token_hex(4)}.local.",
        parsed_addresses=[address],
    )


@asynccontextmanager
async def _running(*peers: Peer) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(peer.discovery.run()) for peer in peers]
        yield
        for task in running:
            task.cancel()


@pytest.fixture
def run() -> str:
    return f"test-{secrets.token_hex(4)}"


async def test_two_peers_of_a_run_find_each_other(run: str) -> None:
    known: set[int] = set()
    a, b = Peer(known, run), Peer(known, run)
    async with _running(a, b):
        assert await a.next() == ("found", b.port)
        assert await b.next() == ("found", a.port)


async def test_who_stops_is_lost(run: str) -> None:
    known: set[int] = set()
    a, b = Peer(known, run), Peer(known, run)
    async with _running(a):
        async with _running(b):
            await a.next()
        assert await a.next() == ("lost", b.port)


async def test_other_runs_are_passed_over_until_one_joins(run: str) -> None:
    known: set[int] = set()
    a, b, stranger = Peer(known, run), Peer(known, run), Peer(known, run + "-other")
    async with _running(a, stranger), _running(b):
        assert await a.next() == ("found", b.port)
        stranger.discovery.recognise(Recognition(run=run))
        assert await a.next() == ("found", stranger.port)
        stranger.discovery.recognise(Recognition(run="elsewhere"))
        assert await a.next() == ("lost", stranger.port)


async def test_peer_that_may_adopt_hears_of_every_run_until_it_has_one(run: str) -> None:
    known: set[int] = set()
    a, b = Peer(known, "default", any_run=True), Peer(known, run)
    async with _running(a, b):
        assert await a.next() == ("found", b.port)
        a.discovery.recognise(Recognition(run=run))
        assert await b.next() == ("found", a.port)
        a.discovery.recognise(Recognition(run="yet-another"))
        assert await a.next() == ("lost", b.port)


@pytest.mark.parametrize("any_run", [False, True])
async def test_without_a_key_of_the_run_nobody_is_recognised(run: str, any_run: bool) -> None:
    known: set[int] = set()
    members = [Peer(known, run, keys=keys) for keys in ((b"old",), (b"new", b"old"))]
    others = [Peer(known, run, any_run=any_run, keys=keys) for keys in ((b"",), (b"another",))]
    async with _running(*others), _running(*members):
        assert await members[1].next() == ("found", members[0].port)
        async with asyncio.TaskGroup() as tasks:  # two more of each kind, which are heard after the members
            late = [Peer(known, run, keys=keys) for keys in ((b"",), (b"another",))]
            running = [tasks.create_task(peer.discovery.run()) for peer in late]
            for other, same in zip(others, late, strict=True):
                assert await other.next() == ("found", same.port)
            for task in running:
                task.cancel()


async def test_a_peer_goes_on_being_found_under_another_name(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mdns, "ROTATE_S", 2.0)
    monkeypatch.setattr(mdns, "ANNOUNCE_S", 0.5)
    found: asyncio.Queue[Found | Lost] = asyncio.Queue()
    b = Peer(set(), run)
    a = ServiceDiscovery(free_port(), Recognition(run=run), LOOPBACK, found.put_nowait)
    names: set[str] = set()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(a.run())
        async with _running(b), asyncio.timeout(EVENT_S):
            while len(names) < 3:
                event = await found.get()
                assert isinstance(event, Found), (
                    "it was lost, but its address was announced under another name"
                )
                if event.addresses == (f"127.0.0.1:{b.port}",):
                    names.add(event.instance)
        running.cancel()


async def test_peer_is_lost_with_its_last_announcement(run: str) -> None:
    known: set[int] = set()
    a, port = Peer(known, run), free_port()
    known.add(port)
    async with _running(a):
        zeroconf = AsyncZeroconf(interfaces=["127.0.0.1"])
        try:
            infos = [announcement(run, port) for _ in range(2)]
            for info in infos:
                await (await zeroconf.async_register_service(info, cooperating_responders=True))
            assert [await a.next(), await a.next()] == [("found", port)] * 2
            await (await zeroconf.async_unregister_service(infos[0]))
            await (await zeroconf.async_unregister_service(infos[1]))
            assert await a.next() == ("lost", port)
            assert a.events.empty()
        finally:
            await zeroconf.async_close()


HOSTILE: list[dict[str, str | bytes]] = [
    {"s": ""},
    {"k": "abc"},
    {"r": b"\xff" * 16},
    {"s": "\u0661" * 16},
    {"r": "d" * 200},
]


async def test_nonsense_is_passed_over_and_harms_nothing(run: str) -> None:
    events: asyncio.Queue[Found | Lost] = asyncio.Queue()
    discovery = ServiceDiscovery(free_port(), Recognition(run=run), LOOPBACK, events.put_nowait)
    b = Peer(set(), run)
    zeroconf = AsyncZeroconf(interfaces=["127.0.0.1"])
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(discovery.run())
        try:
            await zeroconf.zeroconf.async_wait_for_start()
            wrong = DNSOutgoing(const._FLAGS_QR_RESPONSE | const._FLAGS_AA)
            for alias in ("evil._http._tcp.local.", f"a b\x1b[2J.{SERVICE}", SERVICE):
                wrong.add_answer_at_time(DNSPointer(SERVICE, const._TYPE_PTR, const._CLASS_IN, 60, alias), 0)
            zeroconf.zeroconf.async_send(wrong)
            infos = [announcement(run, 1, "127.0.0.1", **properties) for properties in HOSTILE]
            infos += [announcement(run, 1, ip) for ip in ("0.0.0.0", "224.0.0.1", "255.255.255.255")]
            for info in infos:
                await zeroconf.async_register_service(info, cooperating_responders=True)
            async with _running(b), asyncio.timeout(EVENT_S):
                # b is announced after all the nonsense, so whoever hears of b has judged the rest.
                assert (await events.get()).addresses == (f"127.0.0.1:{b.port}",)
        finally:
            await zeroconf.async_close()
            running.cancel()


async def test_address_without_multicast_is_a_network_error_that_names_the_way_out() -> None:
    where = Choice(("203.0.113.1",), ("203.0.113.1",))
    discovery = ServiceDiscovery(7001, Recognition(), where, lambda event: None)
    with pytest.raises(NetworkError, match=r"mDNS unavailable: 203.0.113.1: .*--peers"):
        await discovery.run()


async def test_announcement_is_repeated(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "ANNOUNCE_S", 0.05)
    a = Peer(set(), run)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        membership = socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1")
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        listener.bind(("", 5353))
        heard = 0
        async with _running(a), asyncio.timeout(EVENT_S):
            while heard < 12:  # at the start it is sent three times
                packet = await loop.sock_recv(listener, 9000)
                is_answer = packet[2] & 0x80
                heard += bool(is_answer and a.discovery.instance.encode() in packet)


async def test_what_is_announced_tells_strangers_nothing_that_they_could_know_again(run: str) -> None:
    known: set[int] = set()
    peers = [Peer(known, run, keys=(b"secret",)) for _ in range(2)]
    zeroconf = AsyncZeroconf(interfaces=["127.0.0.1"])
    try:
        async with _running(*peers):
            assert (await peers[0].next())[0] == (await peers[1].next())[0] == "found"
            said = []
            for peer in peers:
                info = AsyncServiceInfo(SERVICE, f"{peer.discovery.instance}.{SERVICE}")
                assert await info.async_request(zeroconf.zeroconf, EVENT_S * 1000)
                assert info.server == f"{peer.discovery.instance}.local."
                assert info.parsed_addresses() == ["127.0.0.1"]
                assert info.port == peer.port
                said.append(info.decoded_properties)
            assert [set(one) for one in said] == [{"s", "k", "r"}] * 2
            words = [word for one in said for word in one.values()]
            assert len(set(words)) == len(words), (
                "two peers of one run, or one peer twice, could be told by it"
            )
            assert all(re.fullmatch(r"[0-9a-f]{16}", word or "") for word in words)
            assert peers[0].discovery.instance != peers[1].discovery.instance
    finally:
        await zeroconf.async_close()


def test_two_processes_find_each_other_and_say_goodbye(run: str) -> None:
    ports = [str(free_port()) for _ in range(2)]
    a = Driver(start_here, ports[0], run, "", "127.0.0.1")
    b = Driver(start_here, ports[1], run, "lo", "127.0.0.1")
    try:
        a.expect(f"found 127.0.0.1:{ports[1]}")
        b.expect(f"found 127.0.0.1:{ports[0]}")
        assert a.stop() == 0
        b.expect(f"lost 127.0.0.1:{ports[0]}")
        assert b.stop() == 0
    finally:
        a.kill()
        b.kill()
