"""Discovery of peers by multicast DNS, as networks come and go: what is found is dialled, what fails is told."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from decad.config import split_address
from decad.daemon.context import PeerContext
from decad.errors import NetworkError
from decad.membership.announcement import Recognition
from decad.membership.dialplan import DialPlan
from decad.membership.interfaces import Choice, choose_interfaces, present_interfaces
from decad.membership.mdns import Found, Lost, ServiceDiscovery

log = logging.getLogger("decad")

LOOK_S = 5.0
"""Seconds between looks at the machine's interfaces: addresses come late, change, and go."""


NOWHERE = Choice((), ())


class Discovery:
    """One peer's; ``unavailable`` hears why it does not work just now, once until it works again."""

    def __init__(self, context: PeerContext, dials: DialPlan, unavailable: Callable[[str], None]) -> None:
        self._config, self._settings, self._gate = context.config, context.run, context.gate
        self._dials, self._unavailable = dials, unavailable
        self._service: ServiceDiscovery | None = None
        self._serving: asyncio.Task[None] | None = None
        self._told = ""
        """What ``unavailable`` heard, while it is so."""
        self.state = "off"
        """For the operator: off, on which interfaces, or unavailable."""

    async def run(self, listening: str) -> None:
        """Announce ``listening`` (host:port) and look for others until cancelled, wherever there is a network just now.

        Raises NetworkError when the interface that the operator named is not there at first. Whatever else fails, or
        fails later, is tried again.
        """
        host, port = split_address(listening)
        first = True
        try:
            while True:
                try:
                    where = choose_interfaces(
                        self._config.interface, await _numeric(host), present_interfaces()
                    )
                except NetworkError as error:
                    if first and self._config.interface:
                        raise
                    where = NOWHERE
                    self._fails(str(error))
                first = False
                self._serve(where, port)
                await self._pause()
        finally:
            if self._serving is not None:
                self._serving.cancel()
                await asyncio.wait({self._serving})

    def _serve(self, where: Choice, port: int) -> None:
        """Speak on these interfaces, and on no others any more."""
        if self._service is not None and self._serving is not None:
            self._service.move(where)
            self._service.recognise(self._recognition())  # the keys may have changed
        elif where != NOWHERE:
            self._service = ServiceDiscovery(port, self._recognition(), where, self._on_mdns)
            self._serving = asyncio.create_task(self._service.run())
        if where != NOWHERE:
            state = f"on {', '.join(where.interfaces)}"
            if state != self.state and self.state != "off":
                log.info("mDNS speaks %s", state)
            self.state, self._told = state, ""

    async def _pause(self) -> None:
        """Until the next look, with an eye on what may end by itself."""
        if self._serving is None:
            await asyncio.sleep(LOOK_S)
            return
        done, _ = await asyncio.wait({self._serving}, timeout=LOOK_S)
        if done:
            error, self._serving, self._service = self._serving.exception(), None, None
            if not isinstance(error, NetworkError):
                log.error("mDNS failed", exc_info=error)
            self._fails(
                str(error)
                if isinstance(error, NetworkError)
                else f"mDNS failed: {type(error).__name__}: {error}."
            )
            await asyncio.sleep(LOOK_S)

    def _fails(self, why: str) -> None:
        self.state = "unavailable"
        if why != self._told:
            self._told = why
            self._unavailable(f"{why} It is looked for again every {LOOK_S:.0f} s.")

    def settings_changed(self) -> None:
        """Look for the peers of the run that it is now."""
        if self._service is not None:
            self._service.recognise(self._recognition())

    def _recognition(self) -> Recognition:
        any_run = "run" not in self._settings.set_fields and not self._settings.frozen
        return Recognition(self._gate.discovery_keys(), self._settings.spec.run, any_run)

    def _on_mdns(self, event: Found | Lost) -> None:
        if isinstance(event, Lost):
            self._dials.withdrawn(event.addresses)
            return
        now = asyncio.get_running_loop().time()
        for address in event.addresses:
            self._dials.add(address, "mdns", now, event.instance)


async def _numeric(host: str) -> str:
    """An address of a host that is given by name, as it resolves now; an address as it is. Raises NetworkError."""
    if host == "localhost" or host.replace(".", "").isdigit() or ":" in host:
        return host
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NetworkError(
            f"mDNS unavailable: {host} of --listen has no address ({error.strerror}). Listen on an address instead, or "
            "use --peers."
        ) from None
    return str(min(found, key=lambda each: each[0] != socket.AF_INET)[4][0])
