"""Multicast DNS: say that this peer is here, hear of the others. The only importer of zeroconf.

What is announced is public on the local network, so it is little: addresses and the port, a name and a salt drawn by
chance and drawn again every quarter of an hour, and two fingerprints that only members can recognise. What is heard is
a hint from anybody: it is bounded, checked for form, and proves nothing until a link does.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import secrets
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from zeroconf import ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from decad.errors import NetworkError
from decad.membership.announcement import Announcement, Recognition, read_announcement
from decad.membership.interfaces import Choice, index_of

SERVICE = "_decad._tcp.local."

_INSTANCE = re.compile(rf"[0-9a-f]{{16}}\.{re.escape(SERVICE)}")
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

ROTATE_S = 900.0
"""Seconds until a peer announces itself under another name with another salt."""

OLD_NAME_S = 5.0
"""How long the old name is still announced beside the new one: longer than others take to resolve that."""

OWN_KEPT = 16
"""Own names by which this peer knows its own announcements, which others' caches still repeat."""

RESOLVE_MS = 3000
"""Milliseconds to wait for the details of one announcement."""


@dataclass(frozen=True)
class Found:
    """A peer was announced, or its announcement changed."""

    instance: str
    """The name that it goes by for now: 16 hex characters."""
    addresses: tuple[str, ...]
    """host:port, at least one."""


@dataclass(frozen=True)
class Lost:
    """Nobody is announced at these addresses any more: whoever was said goodbye, fell silent, or left the run."""

    addresses: tuple[str, ...]


class _Heard(NamedTuple):
    """A well-formed announcement."""

    found: Found
    said: Announcement


class ServiceDiscovery:
    """Announces this peer and reports the others, as long as `run` runs."""

    def __init__(
        self, port: int, recognition: Recognition, where: Choice, on_event: Callable[[Found | Lost], None]
    ) -> None:
        """``port``: where links are accepted; ``where``: see `choose_interfaces`.

        ``on_event`` is called in the event loop and must not block. Whom ``recognition`` does not know is passed over.
        """
        self._port, self._recognition, self._where = port, recognition, where
        self._on_event = on_event
        self._own: list[str] = []
        """Names of services that are ours, the present one last."""
        self._said: dict[str, str] = {}
        self._named = 0.0
        """When the present name was drawn, on the loop's clock."""
        self._announced: dict[str, _Heard | None] = {}
        """Service name -> what it says; None until that is known, or if it makes no sense."""
        self._reported: dict[str, Found] = {}
        """The same for those that were reported: what `on_event` was told and not told the end of."""
        self._inbox: asyncio.Queue[str | Choice | None] = asyncio.Queue()
        """Names of services to resolve, where to speak from now on, or None when it is time to announce ourselves."""
        self._resolving: set[str] = set()

    def recognise(self, recognition: Recognition) -> None:
        """The run or its keys changed: announce it under another name, judge the others anew."""
        if recognition != self._recognition:
            self._recognition, self._named = recognition, -ROTATE_S
            self._inbox.put_nowait(None)

    @property
    def instance(self) -> str:
        """The name that this peer goes by for now; empty before it was announced."""
        return self._own[-1].partition(".")[0] if self._own else ""

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
                    await self._announce(zeroconf, tasks)
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
                await self._announce(zeroconf, tasks)
                for known in list(self._announced):
                    self._report(known)
            else:
                await places.acquire()
                tasks.create_task(self._resolve(zeroconf.zeroconf, name, places))

    async def _announce(self, zeroconf: AsyncZeroconf, tasks: asyncio.TaskGroup) -> None:
        """Say again who is here; now and then under another name, of which the old one's end is told afterwards."""
        now = asyncio.get_running_loop().time()
        if self._own and now - self._named < ROTATE_S:
            tasks.create_task(_finish(await zeroconf.async_update_service(self._service())))
            return
        older = self._service() if self._own else None
        self._named, self._said = now, self._recognition.sign()
        self._own = [*self._own[-OWN_KEPT:], f"{secrets.token_hex(8)}.{SERVICE}"]
        # The name is drawn by chance, and nobody contests it: the probing of RFC 6762 is left out.
        sent = await zeroconf.async_register_service(self._service(), cooperating_responders=True)
        tasks.create_task(_finish(sent) if older is None else self._rename(zeroconf, sent, older))

    async def _rename(self, zeroconf: AsyncZeroconf, sent: Awaitable[None], older: AsyncServiceInfo) -> None:
        """The old name ends once the others have had time to hear of the new one."""
        await sent
        await asyncio.sleep(OLD_NAME_S)
        await _finish(await zeroconf.async_unregister_service(older))

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
        heard, before = self._announced.get(name), self._reported.pop(name, None)
        now = heard.found if heard is not None and self._recognition.knows(heard.said) else None
        if now is not None:
            self._reported[name] = now
            if now != before:
                self._on_event(now)
        if before is not None:
            still = {address for other in self._reported.values() for address in other.addresses}
            if gone := tuple(address for address in before.addresses if address not in still):
                self._on_event(Lost(gone))

    def _read(self, info: AsyncServiceInfo) -> _Heard | None:
        """What an announcement says; None if it is our own or makes no sense."""
        said = read_announcement(info.decoded_properties)
        addresses = [
            f"[{address}]:{info.port}" if ":" in address else f"{address}:{info.port}"
            for address in info.parsed_addresses()
            if self._reachable(ipaddress.ip_address(address))
        ][:MAX_ADDRESSES]
        if said is None or info.name in self._own or not info.port or not addresses:
            return None
        return _Heard(Found(info.name.partition(".")[0], tuple(sorted(addresses))), said)

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
        name = self._own[-1]
        return AsyncServiceInfo(
            SERVICE,
            name,
            port=self._port,
            properties=self._said,
            server=f"{name.partition('.')[0]}.local.",
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
