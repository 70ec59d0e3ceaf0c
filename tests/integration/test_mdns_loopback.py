"""ServiceDiscovery by real multicast DNS on 127.0.0.1: other tests and daemons on this machine may be heard too."""

from __future__ import annotations

import asyncio
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

from decad.config import PROTOCOL_VERSION
from decad.errors import NetworkError
from decad.membership import mdns
from decad.membership.interfaces import Choice
from decad.membership.mdns import GROUP, SERVICE, Found, Lost, ServiceDiscovery, run_digest

LOOPBACK = Choice(("127.0.0.1",), ("127.0.0.1",))
EVENT_S = 20.0


def _id() -> str:
    return secrets.token_hex(32)


def _found(peer: str, port: int, run: str) -> Found:
    return Found(peer, (f"127.0.0.1:{port}",), PROTOCOL_VERSION, run_digest(run))


class Peer:
    """A discovery and the events that concern those we know."""

    def __init__(self, known: set[str], port: int, run: str, any_run: bool = False) -> None:
        self.id = _id()
        known.add(self.id)
        self.events: asyncio.Queue[Found | Lost] = asyncio.Queue()

        def note(event: Found | Lost) -> None:
            if event.peer_id in known:
                self.events.put_nowait(event)

        self.discovery = ServiceDiscovery(self.id, port, run, LOOPBACK, note, any_run=any_run)

    async def next(self) -> Found | Lost:
        async with asyncio.timeout(EVENT_S):
            return await self.events.get()


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
    known: set[str] = set()
    a, b = Peer(known, 7001, run), Peer(known, 7002, run)
    async with _running(a, b):
        assert await a.next() == _found(b.id, 7002, run)
        assert await b.next() == _found(a.id, 7001, run)


async def test_who_stops_is_lost(run: str) -> None:
    known: set[str] = set()
    a, b = Peer(known, 7001, run), Peer(known, 7002, run)
    async with _running(a):
        async with _running(b):
            await a.next()
        assert await a.next() == Lost(b.id)


async def test_other_runs_are_passed_over_until_one_joins(run: str) -> None:
    known: set[str] = set()
    a, b, stranger = Peer(known, 7001, run), Peer(known, 7002, run), Peer(known, 7003, run + "-other")
    async with _running(a, stranger), _running(b):
        assert await a.next() == _found(b.id, 7002, run)
        stranger.discovery.update_run(run)
        assert await a.next() == _found(stranger.id, 7003, run)
        stranger.discovery.update_run("elsewhere")
        assert await a.next() == Lost(stranger.id)


async def test_peer_that_may_adopt_hears_of_every_run_until_it_has_one(run: str) -> None:
    known: set[str] = set()
    a, b = Peer(known, 7001, "default", any_run=True), Peer(known, 7002, run)
    async with _running(a, b):
        assert await a.next() == _found(b.id, 7002, run)
        a.discovery.update_run(run)
        assert await b.next() == _found(a.id, 7001, run)
        a.discovery.update_run("yet-another")
        assert await a.next() == Lost(b.id)


async def test_peer_is_lost_with_its_last_announcement(run: str) -> None:
    known: set[str] = set()
    a, b = Peer(known, 7001, run), _id()
    known.add(b)
    async with _running(a):
        zeroconf = AsyncZeroconf(interfaces=["127.0.0.1"])
        try:
            infos = [
                AsyncServiceInfo(
                    SERVICE,
                    f"{secrets.token_hex(4)}.{SERVICE}",
                    port=port,
                    properties={"id": b, "v": str(PROTOCOL_VERSION), "run": run_digest(run)},
                    server=f"{secrets.token_hex(4)}.local.",
                    parsed_addresses=["127.0.0.1"],
                )
                for port in (7002, 7003)
            ]
            for info in infos:
                await (await zeroconf.async_register_service(info, cooperating_responders=True))
            assert {await a.next(), await a.next()} == {_found(b, 7002, run), _found(b, 7003, run)}
            await (await zeroconf.async_unregister_service(infos[0]))
            await (await zeroconf.async_unregister_service(infos[1]))
            assert await a.next() == Lost(b)
            assert a.events.empty()
        finally:
            await zeroconf.async_close()


HOSTILE: list[dict[str, str | bytes]] = [
    {"v": "1"},
    {"id": "abc", "v": "1"},
    {"id": b"\xff" * 64, "v": "1"},
    {"id": "c" * 64, "v": "\u0661"},
    {"id": "c" * 64, "v": "1", "run": "d" * 200},
]


async def test_nonsense_is_passed_over_and_harms_nothing(run: str) -> None:
    events: asyncio.Queue[Found | Lost] = asyncio.Queue()
    discovery = ServiceDiscovery(_id(), 7001, run, LOOPBACK, events.put_nowait)
    b = Peer(set(), 7002, run)
    zeroconf = AsyncZeroconf(interfaces=["127.0.0.1"])
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(discovery.run())
        try:
            await zeroconf.zeroconf.async_wait_for_start()
            wrong = DNSOutgoing(const._FLAGS_QR_RESPONSE | const._FLAGS_AA)
            for alias in ("evil._http._tcp.local.", f"a b\x1b[2J.{SERVICE}", SERVICE):
                wrong.add_answer_at_time(DNSPointer(SERVICE, const._TYPE_PTR, const._CLASS_IN, 60, alias), 0)
            zeroconf.zeroconf.async_send(wrong)
            for properties in HOSTILE:
                info = AsyncServiceInfo(
                    SERVICE,
                    f"{secrets.token_hex(4)}.{SERVICE}",
                    port=1,
                    properties={"run": run_digest(run), **properties},
                    server="hostile.local.",
                    parsed_addresses=["127.0.0.1"],
                )
                await zeroconf.async_register_service(info, cooperating_responders=True)
            for address in ("0.0.0.0", "224.0.0.1", "255.255.255.255"):
                info = AsyncServiceInfo(
                    SERVICE,
                    f"{secrets.token_hex(4)}.{SERVICE}",
                    port=1,
                    properties={"id": _id(), "v": str(PROTOCOL_VERSION), "run": run_digest(run)},
                    server=f"{secrets.token_hex(4)}.local.",
                    parsed_addresses=[address],
                )
                await zeroconf.async_register_service(info, cooperating_responders=True)
            async with _running(b), asyncio.timeout(EVENT_S):
                # b is announced after all the nonsense, so whoever hears of b has judged the rest.
                assert await events.get() == _found(b.id, 7002, run)
        finally:
            await zeroconf.async_close()
            running.cancel()


async def test_address_without_multicast_is_a_network_error_that_names_the_way_out() -> None:
    where = Choice(("203.0.113.1",), ("203.0.113.1",))
    discovery = ServiceDiscovery(_id(), 7001, "x", where, lambda event: None)
    with pytest.raises(NetworkError, match=r"mDNS unavailable: 203.0.113.1: .*--peers"):
        await discovery.run()


async def test_announcement_is_repeated(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "ANNOUNCE_S", 0.05)
    a = Peer(set(), 7001, run)
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
                heard += bool(is_answer and a.id.encode() in packet)


async def test_what_is_announced_names_neither_machine_nor_run(run: str) -> None:
    a = Peer(set(), 7001, run)
    zeroconf = AsyncZeroconf(interfaces=["127.0.0.1"])
    try:
        async with _running(a):
            info = AsyncServiceInfo(SERVICE, f"{a.id[:8]}.{SERVICE}")
            assert await info.async_request(zeroconf.zeroconf, EVENT_S * 1000)
            assert info.server == f"{a.id[:16]}.local."
            assert info.decoded_properties == {
                "id": a.id,
                "v": str(PROTOCOL_VERSION),
                "run": run_digest(run),
            }
    finally:
        await zeroconf.async_close()


def test_two_processes_find_each_other_and_say_goodbye(run: str) -> None:
    a_id, b_id = _id(), _id()
    a = Driver(start_here, a_id, "7001", run, "", "127.0.0.1")
    b = Driver(start_here, b_id, "7002", run, "lo", "127.0.0.1")
    try:
        a.expect(f"found {b_id} 127.0.0.1:7002")
        b.expect(f"found {a_id} 127.0.0.1:7001")
        assert a.stop() == 0
        b.expect(f"lost {a_id}")
        assert b.stop() == 0
    finally:
        a.kill()
        b.kill()
