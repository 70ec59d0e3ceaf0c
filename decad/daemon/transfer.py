"""State transfer: the blocks that were trained while this peer was away or behind, from those who trained them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from decad.daemon.context import PeerContext
from decad.daemon.download import Download
from decad.daemon.fetch import Donation
from decad.daemon.interrupt import unless_set
from decad.daemon.network import Network
from decad.daemon.progress import Activity
from decad.daemon.replica import Replica

log = logging.getLogger("decad")

OUTRUN = 2
"""So many times in a row as many blocks were trained as were fetched meanwhile: the run is faster than the line."""

GIVEN_UP_S = 10.0
"""So long after the last block that came at the end of a run it is over for this peer, too."""


@dataclass
class _Pass:
    """What one round of fetching is at, for people."""

    donors: str
    left: int
    """Blocks."""
    wanted: int
    """Bytes of all of them."""
    came: int = 0
    """Bytes so far, those of chunks that had to come twice too."""

    def __str__(self) -> str:
        share = f"{min(self.came, self.wanted) / 1e6:.0f} of {self.wanted / 1e6:.0f} MB"
        return f"{_blocks(self.left)} from {self.donors} ({share})"


class StateTransfer:
    """One peer's: all at once before it trains, and beside the training what did not come in time."""

    def __init__(
        self,
        context: PeerContext,
        replica: Replica,
        network: Network,
        stopping: asyncio.Event,
    ) -> None:
        self._replica = replica
        self._network, self._neighbourhood = network, network.neighbourhood
        self._progress, self._stopping = context.progress, stopping
        self._plan, self._kept = context.plan, context.kept
        self._phase_begun = asyncio.Event()

    def missed_whole_phases(self, step: int) -> bool:
        """Whether phases that were over at ``step`` passed without this peer: then it needs more than the step."""
        begun = self._replica.schedule.position(step)
        return bool(self._replica.missed(step - begun.inner))

    async def catch_up(self, keep: Callable[[], Awaitable[None]]) -> int:
        """Take the neighbours' step, and their copies of the blocks whose phases this peer missed.

        ``keep`` is called after each block, which is in the model then. Returns how many came. Where the run is faster
        than the line, blocks that were trained again meanwhile are left to `refresh`.
        """
        progress, fetching = self._progress, _Pass("", 0, 0)
        fetched = newer = in_vain = 0

        def came(size: int) -> None:
            fetching.came += size
            progress.work += 1
            progress.waiting_for = str(fetching)

        async def take(block: int, donation: Donation) -> bool:
            nonlocal newer
            taken = await self._take(block, donation)
            newer += taken
            fetching.left -= 1
            await keep()
            return taken or not self._missing(block)

        download = Download(self._kept, came)
        while not self._stopping.is_set():
            highest = self._neighbourhood.highest_step()
            if highest is None or highest <= progress.step:
                break
            missed = self._replica.missed(highest)
            in_vain = in_vain + 1 if newer and len(missed) >= newer else 0
            if not missed or in_vain == OUTRUN:
                progress.step = highest
                if missed:
                    progress.notice(
                        f"The neighbours train blocks as fast as this machine can fetch them. It trains on from step "
                        f"{highest}, and fetches {_blocks(len(missed))} beside it."
                    )
                break
            donors = self._network.donors()
            progress.activity = Activity.JOINING
            fetching.donors = self._neighbourhood.labels(donors)
            fetching.left, fetching.came = len(missed), 0
            fetching.wanted = sum(4 * self._kept[block].numel for block in missed)
            progress.waiting_for = str(fetching)
            log.info("joining at step %d: fetching %s", highest, progress.waiting_for)
            newer = 0
            await unless_set(self._stopping, download.fetch(donors, missed, take))
            fetched += newer
            if not newer and not self._stopping.is_set():
                await self._neighbourhood.wait_change()
            progress.waiting_for = ""
        return fetched

    def phase_begins(self) -> None:
        """The training has come to another block."""
        self._phase_begun.set()

    async def refresh(self, kept: Callable[[], None]) -> None:
        """Beside the training, until cancelled: fetch what `catch_up` left, first the block that is trained next.

        ``kept`` is called after each block. A block that is trained before it came is not fetched any more.
        """
        while True:
            await self._phase_begun.wait()
            self._phase_begun.clear()
            while missed := self._in_order_of_use():
                donors = self._network.donors()

                newer = False

                async def take(block: int, donation: Donation) -> bool:
                    nonlocal newer
                    taken = await self._take(block, donation)
                    newer |= taken
                    kept()
                    return taken or not self._missing(block)

                await Download(self._kept).fetch(donors, missed[: len(donors)][::-1], take)
                if not newer:
                    await self._neighbourhood.wait_change()

    async def complete(self) -> None:
        """After the last step: fetch what `refresh` did not, from others that have come as far."""
        progress, loop = self._progress, asyncio.get_running_loop()
        until = loop.time() + GIVEN_UP_S
        while (missed := self._replica.missed(progress.step)) and not self._stopping.is_set():
            progress.waiting_for = f"{_blocks(len(missed))} that changed while this peer joined"
            donors = self._network.as_far_as(progress.step - 1)
            await unless_set(self._stopping, Download(self._kept).fetch(donors, missed, self._take))
            if len(self._replica.missed(progress.step)) < len(missed):
                until = loop.time() + GIVEN_UP_S
            elif loop.time() < until:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(until):
                        await self._neighbourhood.wait_change()
            else:
                progress.notice(
                    f"The run is over, and {_blocks(len(missed))} could not be fetched: this peer does not have the "
                    "run's model. Export it at another peer."
                )
                break
        progress.waiting_for = ""

    async def _take(self, block: int, donation: Donation) -> bool:
        """As `Replica.take`; what is of a step that nobody has come to is not taken."""
        highest = max(self._neighbourhood.highest_step() or 0, self._progress.step)
        schedule = self._replica.schedule
        if donation.step > highest + len(schedule.steps_of(schedule.position(highest).phase)):
            return False
        return await self._replica.take(block, donation)

    def _missing(self, block: int) -> bool:
        """Whether a newer copy of a block is still wanted."""
        highest = max(self._neighbourhood.highest_step() or 0, self._progress.step)
        return block in self._replica.missed(highest)

    def _in_order_of_use(self) -> list[int]:
        """Blocks of which neighbours have a newer copy, but for the active one."""
        step, schedule = self._progress.step, self._replica.schedule
        here = schedule.position(step)
        missed = set(self._replica.missed(step)) - {here.block}
        phases = range(here.phase + 1, here.phase + 2 * len(self._plan))
        coming = (schedule.position(schedule.steps_of(phase)[0]).block for phase in phases)
        return [block for block in dict.fromkeys(coming) if block in missed]


def _blocks(count: int) -> str:
    return "1 block" if count == 1 else f"{count} blocks"
