"""Multicast DNS: say that this peer is here, hear of the others. The only importer of zeroconf.

What is announced is public on the local network: the id, the port, and fingerprints; neither the machine's
name nor the run's. What is heard is a hint from anybody: it is bounded, checked for form, and proves
nothing until a link does.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from zeroconf import ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from decad.config import PROTOCOL_VERSION
from decad.errors import NetworkError
from decad.membership.identity import short_id
from decad.membership.interfaces import Choice, index_of

SERVICE = "_decad._tcp.local."

_INSTANCE = re.compile(rf"[0-9a-f]{{8}}\.{re.escape(SERVICE)}")
"""What our announcements are called. Anybody may point to any name; zeroconf raises on some of them."""

GROUP, GROUP6 = "224.0.0.251", "ff02::fb"
"""The addresses of multicast DNS (RFC 6762)."""

MAX_SERVICES = 1024
"""Announcements followed: anybody on the network can invent any number of them."""

MAX_ADDRESSES = 8
"""Addresses taken from one announcement: a machine with more interfaces still has one of these that works."""

RESOLVES_AT_ONCE = 8
"""Announcements whose details are asked for together: each asks the whole network."""

ANNOUNCE_S = 30.0
"""Seconds between announcements: peers that started while the network between them was cut asked in vain
then, and would not ask again for an hour."""

RESOLVE_MS = 3000
"""Milliseconds to wait for the details of one announcement."""


@dataclass(frozen=True)
class Found:
    """A peer was announced, or its announcement changed."""

    peer_id: str
    addresses: tuple[str, ...]
    """host:port, at least one."""
    version: int
    """Of the protocol it speaks."""
    run: str
    """`run_digest` of its run."""


@dataclass(frozen=True)
class Lost:
    """No announcement of this peer is left: it said goodbye, fell silent for long, or went to another run."""

    peer_id: str


def run_digest(run: str) -> str:
    """What is announced of a run's name: 16 hex characters of its SHA-256."""
    return hashlib.sha256(run.encode()).hexdigest()[:16]


class ServiceDiscovery:
    """Announces this peer and reports the others, as long as `run` runs."""

    def __init__(
        self,
        peer_id: str,
        port: int,
        run: str,
        where: Choice,
        on_event: Callable[[Found | Lost], None],
        *,
        any_run: bool = False,
        version: int = PROTOCOL_VERSION,
    ) -> None:
        """``port``: where links are accepted; ``run``: the run's name; ``where``: see `choose_interfaces`.

        ``on_event`` is called in the event loop and must not block. Peers of other runs are passed over
        unless ``any_run``: for a peer that may still adopt whatever run it finds.
        """
        self._peer_id = peer_id
        self._port = port
        self._run = run_digest(run)
        self._where = where
        self._on_event = on_event
        self._any_run = any_run
        self._version = version
        self._announced: dict[str, Found | None] = {}
        """Service name -> what it says; None until that is known, or if it makes no sense."""
        self._reported: dict[str, Found] = {}
        """The same for those that were reported: what `on_event` was told and not told the end of."""
        self._inbox: asyncio.Queue[str | Choice | None] = asyncio.Queue()
        """Names of services to resolve, where to speak from now on, or None when it is time to announce ourselves."""
        self._resolving: set[str] = set()

    def update_run(self, run: str, *, any_run: bool = False) -> None:
        """The run's name or the wish to hear of all runs changed: announce it, judge the others anew."""
        self._run = run_digest(run)
        self._any_run = any_run
        self._inbox.put_nowait(None)

    def move(self, where: Choice) -> None:
        """Speak here from now on; to be called again now and then, since an address that is new may not work yet."""
        self._inbox.put_nowait(where)

    async def run(self) -> None:
        """Announce and browse until cancelled, then say goodbye.

        Raises NetworkError when multicast is not to be had at first. A network that fails later is not noticed
        here: the others fall silent, until `move` says where to speak instead.
        """
        zeroconf = _open(self._where.interfaces)
        try:
            await zeroconf.zeroconf.async_wait_for_start()
            browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[self._changed])
            try:
                async with asyncio.TaskGroup() as tasks:
                    # Our name is our id, which nobody contests: the probing of RFC 6762 is left out.
                    sent = await zeroconf.async_register_service(self._service(), cooperating_responders=True)
                    tasks.create_task(_finish(sent))
                    tasks.create_task(self._remind())
                    await self._work(zeroconf, tasks)
            finally:
                await browser.async_cancel()
        finally:
            await zeroconf.async_close()

    async def _remind(self) -> None:
        while True:
            await asyncio.sleep(ANNOUNCE_S)
            self._inbox.put_nowait(None)

    async def _work(self, zeroconf: AsyncZeroconf, tasks: asyncio.TaskGroup) -> None:
        places = asyncio.Semaphore(RESOLVES_AT_ONCE)
        while True:
            name = await self._inbox.get()
            if isinstance(name, Choice):
                await self._move(zeroconf, name)
            elif name is None:
                tasks.create_task(_finish(await zeroconf.async_update_service(self._service())))
                for known in list(self._announced):
                    self._report(known)
            else:
                await places.acquire()
                tasks.create_task(self._resolve(zeroconf.zeroconf, name, places))

    async def _move(self, zeroconf: AsyncZeroconf, where: Choice) -> None:
        """Raises nothing for an interface that went meanwhile: zeroconf logs it, and the next look sees it."""
        usable, _ = _usable(where.interfaces)
        before, self._where = self._where, where
        await zeroconf.async_update_interfaces(usable)
        if where != before and where.advertised:
            self._inbox.put_nowait(None)

    async def _resolve(self, zeroconf: Zeroconf, name: str, places: asyncio.Semaphore) -> None:
        self._resolving.discard(name)
        info = AsyncServiceInfo(SERVICE, name)
        try:
            complete = await info.async_request(zeroconf, RESOLVE_MS)
        finally:
            places.release()
        if complete and name in self._announced:
            self._announced[name] = self._read(info)
            self._report(name)

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Removed:
            self._announced.pop(name, None)
            self._report(name)
        elif _INSTANCE.fullmatch(name) and (name in self._announced or len(self._announced) < MAX_SERVICES):
            self._announced.setdefault(name, None)
            if name not in self._resolving:
                self._resolving.add(name)
                self._inbox.put_nowait(name)

    def _report(self, name: str) -> None:
        """Tell the difference between what ``name`` says now and what was last told of it."""
        now, before = self._announced.get(name), self._reported.pop(name, None)
        if now is not None and not (self._any_run or now.run == self._run):
            now = None
        if now is not None:
            self._reported[name] = now
            if now != before:
                self._on_event(now)
        if before is not None and all(before.peer_id != other.peer_id for other in self._reported.values()):
            self._on_event(Lost(before.peer_id))

    def _read(self, info: AsyncServiceInfo) -> Found | None:
        """What an announcement says; None if it is our own or makes no sense."""
        text = info.decoded_properties
        peer_id, version, run = text.get("id") or "", text.get("v") or "", text.get("run") or ""
        addresses = [
            f"[{address}]:{info.port}" if ":" in address else f"{address}:{info.port}"
            for address in info.parsed_addresses()
            if self._reachable(ipaddress.ip_address(address))
        ][:MAX_ADDRESSES]
        if (
            not re.fullmatch(r"[0-9a-f]{64}", peer_id)
            or not re.fullmatch(r"[0-9]{1,5}", version, re.ASCII)
            or not re.fullmatch(r"[0-9a-f]{16}", run)
            or peer_id == self._peer_id
            or not info.port
            or not addresses
        ):
            return None
        return Found(peer_id, tuple(sorted(addresses)), int(version), run)

    def _reachable(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Nobody may send us to ports of this machine, unless it is there that we look for peers.

        Nor to an IPv6 address that means something on one interface only, and does not say on which.
        """
        if address.is_loopback:
            return any(ipaddress.ip_address(i).is_loopback for i in self._where.interfaces)
        if address.version == 6 and (address.is_link_local or address.ipv4_mapped):
            return False
        return not (address.is_unspecified or address.is_multicast or address.is_reserved)

    def _service(self) -> AsyncServiceInfo:
        return AsyncServiceInfo(
            SERVICE,
            f"{short_id(self._peer_id)}.{SERVICE}",
            port=self._port,
            properties={"id": self._peer_id, "v": str(self._version), "run": self._run},
            server=f"{self._peer_id[:16]}.local.",
            parsed_addresses=list(self._where.advertised),
        )


def _open(interfaces: tuple[str, ...]) -> AsyncZeroconf:
    """Raises NetworkError unless multicast can be joined on at least one of the addresses."""
    usable, refused = _usable(interfaces)
    try:
        if not usable:
            raise OSError(0, "; ".join(f"{address}: {why}" for address, why in refused.items()))
        return AsyncZeroconf(interfaces=usable)
    except (OSError, RuntimeError) as error:  # the one of the system, the other of zeroconf
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise NetworkError(
            f"mDNS unavailable: {why}. Peers on this network will not be found by themselves: use --peers, or name "
            "another interface with --interface."
        ) from error


def _usable(interfaces: tuple[str, ...]) -> tuple[list[str | int], dict[str, str]]:
    """Addresses on which multicast can be joined, as zeroconf takes them, and why it cannot on the others.

    zeroconf goes on without a word when it cannot join: it would announce to nobody.
    """
    usable, refused = list[str | int](), dict[str, str]()
    for address in interfaces:
        six = ":" in address
        try:
            with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as probe:
                if six:
                    membership = socket.inet_pton(socket.AF_INET6, GROUP6) + struct.pack(
                        "@I", index_of(address)
                    )
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
                else:
                    membership = socket.inet_aton(GROUP) + socket.inet_aton(address)
                    probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        except OSError as error:
            refused[address] = error.strerror or str(error)
        else:
            usable.append(address)
    return usable, refused


async def _finish(sent: Awaitable[None]) -> None:
    await sent
