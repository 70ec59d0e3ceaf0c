"""What a service manager is told (sd_notify): that the daemon is ready, what it does, that it is alive, that it ends.

The protocol is a datagram of lines to a Unix socket whose address is in the environment. Without one, as in a
terminal or a container, nothing is sent.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Self

STATUS_S = 5.0
"""Between two looks at what there is to tell, in seconds, unless the watchdog wants to hear oftener."""


class ServiceManager:
    """``address``: of the manager's socket, empty for none, ``@`` first for an abstract one; ``watchdog_s``: the
    manager restarts a daemon that is silent for so many seconds, 0 for never.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog_s = watchdog_s
        self._stopping = False

    @classmethod
    def take_from(cls, environ: MutableMapping[str, str]) -> Self:
        """The manager that ``environ`` names. Its variables are taken out: they are not meant for child processes."""
        address, usec, pid = (
            environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        )
        if not usec.isdecimal() or pid not in ("", str(os.getpid())):
            usec = "0"
        return cls(address, int(usec) / 1e6)

    @asynccontextmanager
    async def kept_told(self, sound: Callable[[], bool], line: Callable[[], str]) -> AsyncIterator[None]:
        """Say that the daemon is ready, then how it is while the context lasts, and that it ends.

        ``sound``: whether it gets on; ``line``: what it does, in a line. From the event loop, so that one which is
        held up falls silent too.
        """
        if not self._address:
            yield
            return
        self._say("READY=1")
        telling = asyncio.create_task(self._tell(sound, line), name="service manager")
        try:
            yield
        finally:
            telling.cancel()
            self.stopping()

    def stopping(self) -> None:
        """Say, once, that the daemon is about to end."""
        if not self._stopping:
            self._stopping = True
            self._say("STOPPING=1")

    async def _tell(self, sound: Callable[[], bool], line: Callable[[], str]) -> None:
        told = ""
        while True:
            if (now := line()) != told:
                self._say(f"STATUS={now}")
                told = now
            if self._watchdog_s and sound():
                self._say("WATCHDOG=1")
            # A third: one that is late does no harm.
            await asyncio.sleep(min(STATUS_S, self._watchdog_s / 3 or STATUS_S))

    def _say(self, line: str) -> None:
        if not self._address:
            return
        # A manager that is gone, or does not keep up, is no reason to stop training.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(line.encode(), self._address)
