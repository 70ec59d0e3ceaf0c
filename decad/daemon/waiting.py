"""Who waits for whom outside the steps: for neighbours before the first one, and for theirs after the last."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from decad.config import PeerConfig
from decad.daemon.network import Network
from decad.daemon.progress import Activity, Progress
from decad.errors import NetworkError
from decad.wire.counters import ByteCounter

SETTLE_S = 3.0
"""Looking for peers before the first step: a machine that could join should not train a step alone."""
REACH_S = 15.0
"""A fresh peer that reaches nobody of ``--peers`` within this time gives up."""
LINGER_S = 5.0
"""A peer that is done stays so long for neighbours that still need its last block, and again while they fetch."""
LONGEST_S = 600.0
"""It stays no longer for anybody: who fetches for ever would have it run for ever."""
POLL_S = 0.2


async def wait_for_neighbours(
    network: Network, config: PeerConfig, progress: Progress, stop: asyncio.Event, resumed: bool
) -> None:
    """Wait for the neighbours that can be had before training begins, or until ``stop``.

    Raises what is fatal to the network before the first step, and NetworkError or MismatchError when a peer that has
    not ``resumed`` reaches none of those that it was given.
    """
    loop = asyncio.get_running_loop()
    begun = loop.time()
    progress.activity = Activity.WAITING
    while not stop.is_set():
        if network.fatal.done():
            network.fatal.result()
        waited, unmet = loop.time() - begun, _unmet(network)
        not_reached = f"; not reached: {unmet}" if unmet else ""
        if config.min_peers:
            if network.linked >= config.min_peers and not network.undecided:
                break
            progress.waiting_for = (
                f"neighbours ({config.min_peers} wanted, {network.linked} here){not_reached}"
            )
        elif not config.mdns and not network.dials.addresses:
            break
        else:
            progress.waiting_for = f"peers to be found{not_reached}"
            if waited >= SETTLE_S and not network.undecided and (network.linked or not config.peers):
                break
            if waited >= REACH_S and not network.linked:
                if not resumed:
                    if not unmet and network.mismatch is None:
                        raise NetworkError(
                            "The peers that were reached have left: their run may be over. Export its model there; or "
                            "start without --peers to begin one."
                        )
                    raise network.mismatch or NetworkError(
                        f"None of --peers could be reached within {REACH_S:.0f} s: {unmet}. Check the addresses "
                        "and that decad runs there; or start without --peers to be the first, or with "
                        "--min-peers 1 to wait for them."
                    )
                progress.notice(f"None of --peers can be reached: {unmet}. Training alone meanwhile.")
                break
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await network.neighbourhood.wait_change()
    progress.waiting_for = ""


async def linger(network: Network, progress: Progress, stop: asyncio.Event, given: ByteCounter) -> None:
    """Stay until the neighbours have finished this peer's last step too, or for a few seconds in which they fetched
    nothing; ``given``: what they did fetch."""
    progress.activity = Activity.FINISHED
    loop = asyncio.get_running_loop()
    last, fetched = loop.time() + LONGEST_S, -1
    while not stop.is_set() and given.fetch != fetched and loop.time() < last:
        fetched = given.fetch
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(last, loop.time() + LINGER_S)):
                while not stop.is_set() and network.neighbourhood.anybody_before(progress.step):
                    await network.neighbourhood.wait_change()
                return


def _unmet(network: Network) -> str:
    return ", ".join(f"{address} ({reason or 'no answer yet'})" for address, reason in network.unreachable())
