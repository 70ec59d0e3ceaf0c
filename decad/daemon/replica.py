"""This peer's own copy of the model as the phases pass: which block is active, and how new each of the others is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from decad.config import RunSpec
from decad.core.schedule import Position, Schedule
from decad.daemon.compute import ComputeThread
from decad.daemon.fetch import Donation
from decad.daemon.phase import ActiveBlock, TrainingRule
from decad.daemon.saver import Saver
from decad.errors import PeerError
from decad.model.trainable import TrainableModel
from decad.state.checkpoint import ActiveState, Checkpoint, TrainedBlock


class _Resumed(NamedTuple):
    """The active block of a checkpoint, until its phase goes on or is seen to have passed."""

    phase: int
    state: ActiveState


class Replica:
    """Changes the model between steps; tells ``saver`` which blocks changed."""

    def __init__(
        self,
        spec: RunSpec,
        schedule: Schedule,
        rule: TrainingRule,
        model: TrainableModel,
        compute: ComputeThread,
        saver: Saver,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._inner_steps, self._seed = spec.inner_steps, spec.seed
        self._schedule, self._rule = schedule, rule
        self._model, self._compute, self._saver = model, compute, saver
        self.active: ActiveBlock | None = None
        self.whole_steps = asyncio.Lock()
        """Held from the half-step to the end of the step: a joiner is given what a completed step left."""
        self._still = asyncio.Lock()
        """Held while inactive blocks change, and while one of them is copied."""
        self._phase = -1
        """Of ``active``."""
        self._phases: dict[int, int] = {}
        """Block -> the last phase in which it was trained here or fetched."""
        self._resumed: _Resumed | None = None
        if checkpoint is not None:
            self._phases = dict(checkpoint.phases)
            if (state := checkpoint.active()) is not None:
                self._resumed = _Resumed(schedule.position(checkpoint.run.step).phase, state)

    async def enter(self, position: Position) -> ActiveBlock | None:
        """Make the block of this phase active, if it is not. Returns it when its phase begins here."""
        if self.active is not None and position.phase == self._phase:
            return None
        await self.leave()
        resumed, self._resumed = self._resumed, None
        if resumed is not None and resumed.phase != position.phase:
            await self._changed(resumed.state.block, resumed.phase)
            resumed = None
        continued = resumed.state if resumed else None
        block = self._model.plan[position.block]
        async with self._still:
            self.active = await self._compute.run(ActiveBlock, self._model, block, self._rule, continued)
            self._phase = position.phase
        return self.active

    async def leave(self) -> None:
        """The phase of the active block, if there is one, is over for this peer."""
        if self.active is None:
            return
        index = self.active.block.index
        # The phase's last step, wherever this peer left it: the noise of rounding is the same at all peers.
        last = (self._phase + 1) * self._inner_steps - 1
        async with self._still:
            self.active = None
            await self._compute.run(self._model.deactivate, seed=self._seed, step=last)
        await self._changed(index, self._phase)

    def missed(self, step: int) -> list[int]:
        """Blocks that changed among the neighbours, who are at ``step``, in phases of which this peer has nothing."""
        mine = dict(self._phases)
        if self._resumed is not None:
            mine[self._resumed.state.block] = self._resumed.phase
        latest = self._schedule.latest_phases(step)
        return [block for block, phase in latest.items() if mine.get(block, -1) < phase]

    async def take(self, block: int, donation: Donation) -> None:
        """Put a donor's copy of a block in the place of one's own."""
        if self._resumed is not None and self._resumed.state.block == block:
            self._resumed = None  # its phase has passed: this copy is newer
        async with self._still:
            await self._compute.run(self._model.set_block, block, donation.values)
        here = self._schedule.position(donation.step)
        active = here.block == block and donation.active
        phase = here.phase if active else self._schedule.last_phase(block, donation.step)
        await self._changed(block, phase if phase is not None else -1)

    async def donate(self, block: int, step: Callable[[], int]) -> Donation:
        """A copy of a block, for a joiner; ``step``: the next one to take. Raises PeerError."""
        if block >= len(self._model.plan):
            raise PeerError(f"there is no block {block}")
        async with self._still:
            if not self._is_active(block):
                # Beside the step, not between two: the donor is not held up, nor the joiner.
                values = await asyncio.to_thread(self._model.block, block)
                resumed = self._resumed
                here = (block, self._schedule.position(step()).phase)
                # What this peer came back with in the middle of the phase is about to be active again.
                again = resumed is not None and (resumed.state.block, resumed.phase) == here
                return Donation(values, step(), again)
        async with self.whole_steps:
            # Not on the compute thread, where the next gradient may be under way; it changes nothing.
            values = await asyncio.to_thread(self._model.block, block)
            return Donation(values, step(), self._is_active(block))

    def _is_active(self, block: int) -> bool:
        return self.active is not None and self.active.block.index == block

    async def held(self) -> ActiveState | None:
        """A copy of the active block, or of what is to become it again; None between phases."""
        if self.active is not None:
            # Not on the compute thread, where an abandoned gradient may be under way; it changes none of these.
            return await self._saver.on_io_thread(self.active.saved)
        return self._resumed.state if self._resumed is not None else None

    async def _changed(self, block: int, phase: int) -> None:
        self._phases[block] = phase
        values = await self._compute.run(self._model.block, block)
        # An inactive block is held in the load dtype, so that dtype loses nothing.
        self._saver.changed(block, TrainedBlock(values.to(self._model.dtype), phase))
