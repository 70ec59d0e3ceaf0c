"""This peer's own copy of the model as the phases pass: which block is active, and how new each of the others is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from decad.core.clipping import Clipping
from decad.core.schedule import Position, Schedule
from decad.daemon.adapters import Adapters
from decad.daemon.compute import ComputeThread
from decad.daemon.fetch import Donation
from decad.daemon.phase import ActiveBlock, TrainingRule
from decad.daemon.saver import Saver
from decad.errors import PeerError
from decad.model.trainable import TrainableModel
from decad.state.checkpoint import ActiveState, AdapterState, TrainedBlock


class Resumed(NamedTuple):
    """What a checkpoint says of the blocks."""

    phases: Mapping[int, int]
    """Block -> the last phase in which it was trained here or fetched."""
    active: ActiveState | None
    """Of the block that was active, read from the disk."""
    step: int
    """The next one to take."""
    adapters: AdapterState | None = None
    apart: Mapping[int, float] = MappingProxyType({})
    """See `RunRecord.apart`."""
    end: int = 0
    """See `RunRecord.end`."""


class _Unfinished(NamedTuple):
    """The active block of a checkpoint, until its phase goes on or is seen to have passed."""

    phase: int
    state: ActiveState


class Replica:
    """Changes the model between steps; tells ``saver`` which blocks changed. All of it is done beside the loop."""

    def __init__(
        self,
        schedule: Schedule,
        rule: TrainingRule,
        model: TrainableModel,
        compute: ComputeThread,
        saver: Saver,
        resumed: Resumed | None = None,
    ) -> None:
        self.schedule, self._rule = schedule, rule
        self._model, self._compute, self._saver = model, compute, saver
        self._clipping = Clipping()
        self._beside: Adapters | None = None
        if model.adapters is not None:
            moments = resumed.adapters if resumed is not None else None
            self._beside = Adapters(model.adapter_values, rule.adapter_rate, rule.constants, moments)
        self.active: ActiveBlock | None = None
        self.whole_steps = asyncio.Lock()
        """Held from the half-step to the end of the step: a joiner is given what a completed step left."""
        self._still = asyncio.Lock()
        """Held while inactive blocks change, and while one of them is copied."""
        self._phase = -1
        """Of ``active``."""
        self._phases: dict[int, int] = {}
        """Block -> the last phase in which it was trained here or fetched."""
        self._unfinished: _Unfinished | None = None
        if resumed is not None:
            self._phases = dict(resumed.phases)
            if resumed.adapters is not None:
                self._phases[resumed.adapters.block] = resumed.adapters.phase
            if resumed.active is not None:
                self._unfinished = _Unfinished(schedule.position(resumed.step).phase, resumed.active)

    async def enter(self, position: Position) -> ActiveBlock | None:
        """Make the block of this phase active, if it is not. Returns it when its phase begins here."""
        if self.active is not None and position.phase == self._phase:
            return None
        await self.leave()
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None and unfinished.phase != position.phase:
            await self._changed(unfinished.state.block, unfinished.phase)
            unfinished = None
        continued = unfinished.state if unfinished else None
        block = self._model.plan[position.block]
        async with self._still:
            self.active = await self._compute.run(
                ActiveBlock,
                self._model,
                block,
                self._rule,
                continued,
                self._clipping,
                self._beside,
                self.schedule.settles(position.step),
            )
            self._phase = position.phase
        return self.active

    async def leave(self) -> None:
        """The phase of the active block, if there is one, is over for this peer."""
        if self.active is None:
            return
        index = self.active.block.index
        # The phase's last step, wherever this peer left it: the noise of rounding is the same at all peers.
        last = self.schedule.steps_of(self._phase)[-1]
        async with self._still:
            self.active = None
            await self._compute.run(self._model.deactivate, seed=self.schedule.seed, step=last)
        await self._changed(index, self._phase)
        if self._model.adapters is not None:
            self._phases[self._model.adapters.index] = self._phase

    async def reschedule(self, schedule: Schedule) -> None:
        """The training ends earlier: what was trained since is taken to be of the last phase before."""
        last = schedule.position(schedule.end).phase - 1
        if self._phase > last:
            await self.leave()
        self.schedule = schedule
        self._phases = {block: min(phase, last) for block, phase in self._phases.items()}

    def missed(self, step: int) -> list[int]:
        """Blocks that changed among the neighbours, who are at ``step``, in phases of which this peer has nothing."""
        latest = self.schedule.latest_phases(step)
        if self._model.adapters is not None and step:
            latest[self._model.adapters.index] = self.schedule.position(step - 1).phase
        kept = self._model.blocks
        return [b for b, phase in latest.items() if self._held_phase(b) < phase and kept[b].numel]

    def _held_phase(self, block: int) -> int:
        """The last phase in which a block was trained here or fetched; -1 for none."""
        if self._is_active(block) or (self._are_adapters(block) and self.active is not None):
            return self._phase
        if self._unfinished is not None and self._unfinished.state.block == block:
            return self._unfinished.phase
        return self._phases.get(block, -1)

    async def take(self, block: int, donation: Donation) -> bool:
        """Put a donor's copy of a block in the place of one's own, if it is newer and not being trained here by now.

        Returns whether it was. Whoever stops waiting leaves no block half written.
        """
        return await asyncio.shield(self._take(block, donation))

    async def _take(self, block: int, donation: Donation) -> bool:
        here = self.schedule.position(donation.step)
        active = here.block == block and donation.active
        if self._are_adapters(block):
            phase = self.schedule.position(donation.step - 1).phase if donation.step else None
        else:
            phase = here.phase if active else self.schedule.last_phase(block, donation.step)
        async with self._still:
            if self._is_active(block) or phase is None or phase <= self._held_phase(block):
                return False
            if self._unfinished is not None and self._unfinished.state.block == block:
                self._unfinished = None  # its phase has passed
            await self._compute.run(self._model.set_block, block, donation.values)
        if self._are_adapters(block):
            self._phases[block] = phase
        else:
            await self._changed(block, phase)
        return True

    async def donate(self, block: int, step: Callable[[], int]) -> Donation:
        """A copy of a block, for a joiner; ``step``: the next one to take. Raises PeerError."""
        if block >= len(self._model.blocks):
            raise PeerError(f"there is no block {block}")
        async with self._still:
            if not self._is_active(block) and not self._are_adapters(block):
                # Beside the step, not between two: the donor is not held up, nor the joiner.
                values = await asyncio.to_thread(self._model.block, block)
                unfinished = self._unfinished
                here = (block, self.schedule.position(step()).phase)
                # What this peer came back with in the middle of the phase is about to be active again.
                again = unfinished is not None and (unfinished.state.block, unfinished.phase) == here
                return Donation(values, step(), again)
        async with self.whole_steps:
            # Not on the compute thread, where the next gradient may be under way; it changes nothing.
            values = await asyncio.to_thread(self._model.block, block)
            return Donation(values, step(), self._is_active(block))

    def _are_adapters(self, block: int) -> bool:
        return self._model.adapters is not None and block == self._model.adapters.index

    def _is_active(self, block: int) -> bool:
        return self.active is not None and self.active.block.index == block

    async def held(self) -> ActiveState | None:
        """A copy of the active block, or of what is to become it again; None between phases."""
        if self.active is not None:
            # Not on the compute thread, where an abandoned gradient may be under way; it changes none of these.
            return await self._saver.on_io_thread(self.active.saved)
        return self._unfinished.state if self._unfinished is not None else None

    async def adapters(self) -> AdapterState | None:
        """A copy of the adapters; None without them. As `held`: between steps."""
        if self._beside is None or self._model.adapters is None:
            return None
        index = self._model.adapters.index
        phase = self._held_phase(index)
        return await self._saver.on_io_thread(partial(self._beside.saved, index, phase))

    async def _changed(self, block: int, phase: int) -> None:
        self._phases[block] = phase
        values = await self._compute.run(self._inactive, block)
        self._saver.changed(block, TrainedBlock(values, phase))

    def _inactive(self, block: int) -> Tensor:
        # An inactive block is held in the load dtype, so that dtype loses nothing.
        return self._model.block(block).to(self._model.dtype)
