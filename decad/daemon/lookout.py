"""Looking for peers by multicast DNS: what is found is dialled, and whether that works here is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from decad.config import split_address
from decad.daemon.context import PeerContext
from decad.errors import NetworkError
from decad.membership.dialplan import DialPlan
from decad.membership.interfaces import choose_interfaces, present_interfaces
from decad.membership.mdns import Discovery, Found, Lost


class Lookout:
    """One peer's; ``unavailable`` hears why it cannot work, once, unless the operator named the interface."""

    def __init__(
        self, context: PeerContext, dials: DialPlan, unavailable: Callable[[NetworkError], None]
    ) -> None:
        self._peer_id, self._config, self._settings = context.peer_id, context.config, context.run
        self._dials, self._unavailable = dials, unavailable
        self._discovery: Discovery | None = None
        self.state = "off"
        """For the operator: off, on which interfaces, or unavailable."""

    async def run(self, listening: str) -> None:
        """Announce ``listening`` (host:port) and look for others until cancelled.

        Raises NetworkError when the interface that the operator named cannot be used.
        """
        try:
            await self._run(listening)
        except NetworkError as error:
            self.state = "unavailable"
            if self._discovery is None and self._config.interface:
                raise
            self._unavailable(error)

    async def _run(self, listening: str) -> None:
        host, port = split_address(listening)
        host = await _numeric(host)
        where = choose_interfaces(self._config.interface, host, present_interfaces())
        run = self._settings.spec.run
        self._discovery = Discovery(self._peer_id, port, run, where, self._on_mdns, any_run=self._any_run)
        self.state = f"on {', '.join(where.interfaces)}"
        await self._discovery.run()

    def settings_changed(self) -> None:
        """Look for the peers of the run that it is now."""
        if self._discovery is not None:
            self._discovery.update_run(self._settings.spec.run, any_run=self._any_run)

    @property
    def _any_run(self) -> bool:
        return "run" not in self._settings.set_fields and not self._settings.frozen

    def _on_mdns(self, event: Found | Lost) -> None:
        if isinstance(event, Lost):
            self._dials.withdrawn(event.peer_id)
            return
        now = asyncio.get_running_loop().time()
        for address in event.addresses:
            self._dials.add(address, "mdns", now, event.peer_id)


async def _numeric(host: str) -> str:
    """An IPv4 address of a host that is given by name; an address as it is. Raises NetworkError."""
    if host == "localhost" or host.replace(".", "").isdigit() or ":" in host:
        return host
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, family=socket.AF_INET)
    except OSError as error:
        raise NetworkError(
            f"mDNS unavailable: {host} of --listen has no IPv4 address ({error.strerror}). Listen on an address "
            "instead, or use --peers."
        ) from None
    return str(found[0][4][0])
