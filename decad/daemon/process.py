"""One peer as a process: its event loop, its signals, its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable

from decad.config import PeerConfig, RunSpec
from decad.daemon.peer import Peer
from decad.daemon.service import ServiceManager
from decad.signals import INSISTING, stopping_signals

log = logging.getLogger("decad")


def run_peer(spec: RunSpec, config: PeerConfig) -> None:
    """Run one peer in this process until it is done, or SIGTERM, SIGINT or SIGHUP arrives.

    A second SIGTERM or SIGINT exits at once.
    """

    peer = Peer(spec, config, service=ServiceManager.take_from(os.environ))

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def leave(number: signal.Signals) -> None:
            os._exit(128 + number)

        def stop(number: signal.Signals) -> None:
            why = number.name if number in INSISTING else f"{number.name}: the terminal closed"
            log.info("%s: stopping; a second SIGINT or SIGTERM exits at once", why)
            for again in numbers:
                if again in INSISTING:
                    loop.add_signal_handler(again, leave, again)
                else:
                    loop.add_signal_handler(again, _nothing)
            peer.stop()

        numbers = stopping_signals()
        for number in numbers:
            loop.add_signal_handler(number, stop, number)
        await peer.run()

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())
        if peer.abandoned:
            # Python would wait for the compute thread, which may be at it for a long time yet.
            logging.shutdown()
            os._exit(0)


def _nothing() -> None:
    """A closing terminal, its shell and the system may each send SIGHUP."""


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Of the fastest event loop that there is here; None: asyncio's own."""
    try:
        import uvloop
    except ImportError:  # not made for Windows
        return None
    return uvloop.new_event_loop
