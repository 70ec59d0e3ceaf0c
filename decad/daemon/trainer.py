"""The step loop: gradient, local Adam step, exchange, mixing; block after block, round after round."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

from decad.config import PeerConfig, RunSpec
from decad.core.schedule import Position, Schedule, learning_rate
from decad.daemon.compute import ComputeThread
from decad.daemon.exchange import Exchange, describe
from decad.daemon.fetch import Donation, FetchPort, fetch_blocks
from decad.daemon.phase import ActiveBlock, TrainingRule
from decad.daemon.progress import Activity, Notices, Progress
from decad.data.position import DataPosition
from decad.data.text import TextData
from decad.errors import PeerError, StateError
from decad.model.trainable import TrainableModel
from decad.state.checkpoint import Checkpoint, CheckpointStore, Snapshot, TrainedBlock
from decad.state.manifest import RunRecord
from decad.state.weights import ACTIVE_BLOCK

log = logging.getLogger("decad")

KNOWN_S = 2.0
"""How long the first step waits for the neighbours' views. If two of them cannot reach each other, as in networks
where not everybody reaches everybody, views go on differing."""

T = TypeVar("T")


class Surroundings(Protocol):
    """What the trainer asks of the network."""

    def edges(self) -> frozenset[str]:
        """Neighbours to mix with in the next step."""
        ...

    def highest_step(self) -> int | None:
        """The furthest step among all peers that train; None without any."""
        ...

    def furthest_neighbour(self) -> int | None:
        """The furthest step among the neighbours to mix with; None without any."""
        ...

    def donors(self) -> dict[str, FetchPort]:
        """Training neighbours at the furthest step, who can give blocks."""
        ...

    changed: asyncio.Event
    """Set to end every `wait_change`."""

    async def wait_change(self) -> None:
        """Return when something changed about the neighbours."""
        ...

    def announce(self, step: int, training: bool) -> None:
        """Tell the neighbours where this peer is."""
        ...

    @property
    def known_to_neighbours(self) -> bool:
        """Whether all that train and that the overlay joins us with, as we see it, see it so too."""
        ...

    @property
    def training_peers(self) -> int:
        """How many others are training."""
        ...

    def name_of(self, peer: str) -> str:
        """Name or short id, for people."""
        ...


class _Resumed(NamedTuple):
    """The active block of a checkpoint, until its phase goes on or is seen to have passed."""

    phase: int
    block: int
    tensors: Mapping[str, Tensor]
    updates: int


class Trainer:
    """Trains this peer's copy until ``config.steps`` or `stop`."""

    def __init__(
        self,
        spec: RunSpec,
        set_fields: frozenset[str],
        config: PeerConfig,
        model: TrainableModel,
        data: TextData,
        compute: ComputeThread,
        exchange: Exchange,
        network: Surroundings,
        store: CheckpointStore,
        checkpoint: Checkpoint | None,
        progress: Progress,
        notices: Notices,
    ) -> None:
        self.spec, self._set_fields, self._config = spec, set_fields, config
        self.schedule = Schedule(len(model.plan), spec.inner_steps, spec.order, spec.seed)
        self._rule = TrainingRule(spec, learning_rate(spec.schedule, spec.lr))
        self._model, self._data, self._compute = model, data, compute
        self._exchange, self._network, self._store = exchange, network, store
        self.progress, self._notices = progress, notices
        self._stopping = asyncio.Event()
        self._whole_steps = asyncio.Lock()
        """Held from the half-step to the end of the step: a joiner is given what a completed step left."""
        self._io = ThreadPoolExecutor(1, "io")
        self._saving: asyncio.Future[StateError | None] | None = None
        self._unsaved: dict[int, TrainedBlock] = {}
        self._phases: dict[int, int] = {}
        """Block -> the last phase in which it was trained here or fetched."""
        self._active: ActiveBlock | None = None
        self._phase = -1
        self._resumed: _Resumed | None = None
        self._save_requests: list[asyncio.Future[int]] = []
        self._missing = ""
        """What was said of who was missing from the last step."""
        self._ended = False
        self._position = DataPosition()
        if checkpoint is not None:
            self.progress.step = checkpoint.run.step
            self._position = DataPosition.from_dict(checkpoint.run.data)
            self._phases = dict(checkpoint.phases)
            if active := checkpoint.active():
                here = self.schedule.position(checkpoint.run.step)
                self._resumed = _Resumed(here.phase, here.block, active, checkpoint.run.updates)

    @property
    def step(self) -> int:
        """The next step to take, or the one being taken."""
        return self.progress.step

    @property
    def position(self) -> Position:
        return self.schedule.position(self.progress.step)

    def stop(self) -> None:
        """Abandon the step if its half-step is not done, else finish it at once; then save and return from `run`."""
        self._stopping.set()
        self._exchange.hurry()
        self._network.changed.set()

    async def run(self) -> None:
        """Train. Raises OperatorError when this machine's operator must act."""
        try:
            await self._evaluate()
            await self._join()
            self._network.announce(self.progress.step, training=True)
            await self._wait_for_peers()
            if self._phases_behind():  # who trained before was not here yet, or had not said so
                self._network.announce(self.progress.step, training=False)
                await self._join()
            while not self._stopping.is_set() and not self._finished():
                self._skip_ahead()
                await self._enter_phase()
                if self._due_evaluation():
                    await self._evaluate()
                await self._step()
                await self._answer_save_requests()
            if self._finished() and not self._stopping.is_set():
                await self._evaluate()
            await self._end()
        finally:
            self._ended = True
            self._network.announce(self.progress.step, training=False)
            for request in self._save_requests:
                request.cancel()
            self._io.shutdown(wait=True)

    async def _end(self) -> None:
        self.progress.activity = Activity.SAVING
        why = "finished" if self._finished() else "stopped"
        if self.progress.step or self._unsaved or self._save_requests:
            await self._save()
            log.info("%s at step %d, which is saved in %s", why, self.progress.step, self._config.state_dir)
        else:  # a checkpoint of nothing would only pin the settings of the next start
            log.info("%s before it took a step: there is nothing to save", why)
        await self._answer_save_requests()

    async def save(self) -> int:
        """Have a checkpoint written at the end of the current step; returns its step. Raises StateError."""
        if self._ended:
            return self.progress.step
        request: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._save_requests.append(request)
        self._network.changed.set()
        return await request

    def _finished(self) -> bool:
        return 0 < self._config.steps <= self.progress.step

    # -- one step -------------------------------------------------------------------------------------------

    async def _step(self) -> None:
        if self._stopping.is_set() or self._active is None:
            return
        progress, loop, active = self.progress, asyncio.get_running_loop(), self._active
        step = progress.step
        progress.activity, progress.learning_rate = Activity.TRAINING, self._rule.rate(step)
        self._network.announce(step, training=True)
        self._exchange.open(step, self._network.edges())
        batch, following = self._data.batch(self._position, self._config.batch_size)
        begun = loop.time()
        computed = await self._unless_stopped(self._compute.run(self._model.gradient, batch))
        if computed is None:
            self._exchange.abandon()
            return
        loss, gradient = computed
        del computed
        async with self._whole_steps:
            accumulators = await self._compute.run(active.half_step, gradient, step)
            del gradient
            half = loop.time()
            mixing = asyncio.ensure_future(
                self._exchange.mix(active.state.updates, accumulators, half - begun)
            )
            if self._stopping.is_set():
                await asyncio.sleep(0)
                self._exchange.hurry()
            proceed, mixer = await mixing
            await self._compute.run(active.finish_step, mixer, step)
            now = loop.time()
            if not proceed.unheard:  # else the step took as long as somebody else's computation
                self._exchange.pace.stepped(active.block.index, now - begun)
            progress.stepped(loss, batch.numel(), half - begun, now - half, not proceed.missing)
            self._tell_missing(step, describe(proceed, self._network.name_of))
            self._position = following
            progress.step = step + 1
            if progress.step % self.spec.inner_steps == 0:
                await self._leave_phase()
        if progress.step % self.spec.inner_steps == 0:
            await self._begin_save()

    async def _unless_stopped(self, doing: Coroutine[Any, Any, T]) -> T | None:
        """The result of what may be left half done; None when the daemon is stopped first, whatever it is at."""
        work = asyncio.ensure_future(doing)
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            if self._stopping.is_set() or not work.done():
                work.cancel()
        return None if self._stopping.is_set() else work.result()

    def _tell_missing(self, step: int, said: str) -> None:
        """Once, until it changes: of a neighbour that is late at every step, one line is enough."""
        if said and said != self._missing and not self._stopping.is_set():
            self.notice(f"step {step} {said}.")
        self._missing = said

    def _skip_ahead(self) -> None:
        """More than one step behind: go to the neighbours' step; what was trained stays in one's own copy.

        Only neighbours of the overlay count: on a ring of eight, peers at opposite ends may be four steps apart and
        nobody late.
        """
        highest = self._network.furthest_neighbour()
        if highest is None or highest <= self.progress.step + 1:
            return
        if self._config.steps:
            highest = min(highest, self._config.steps)
        skipped = highest - self.progress.step
        self.progress.steps_skipped += skipped
        self.notice(f"skipped {skipped} steps to catch up with the neighbours at step {highest}.")
        self.progress.step = highest

    # -- phases ---------------------------------------------------------------------------------------------

    async def _enter_phase(self) -> None:
        position = self.schedule.position(self.progress.step)
        if self._active is not None and position.phase == self._phase:
            return
        await self._leave_phase()
        block = self._model.plan[position.block]
        resumed, self._resumed = self._resumed, None
        if resumed is not None and resumed.phase != position.phase:
            await self._changed(resumed.block, resumed.phase)
            resumed = None
        continued = (resumed.tensors, resumed.updates) if resumed else None
        self._active = await self._compute.run(ActiveBlock, self._model, block, self._rule, continued)
        self._phase = position.phase
        self._exchange.begin_phase(position.phase, position.block, self._active.coding)

    async def _leave_phase(self) -> None:
        if self._active is None:
            return
        index = self._active.block.index
        self._active = None
        # The phase's last step, wherever this peer left it: the noise of rounding is the same at all peers.
        last = (self._phase + 1) * self.spec.inner_steps - 1
        await self._compute.run(self._model.deactivate, seed=self.spec.seed, step=last)
        await self._changed(index, self._phase)

    async def _changed(self, block: int, phase: int) -> None:
        self._phases[block] = phase
        values = await self._compute.run(self._model.block, block)
        # An inactive block is held in the load dtype, so that dtype loses nothing.
        self._unsaved[block] = TrainedBlock(values.to(self._model.dtype), phase)

    # -- evaluation -----------------------------------------------------------------------------------------

    def _due_evaluation(self) -> bool:
        every = self.spec.eval_every or self.schedule.steps_per_round
        return self.progress.step % every == 0 and self.progress.step != self.progress.held_out_step

    async def _evaluate(self) -> None:
        if self.progress.step == self.progress.held_out_step and not math.isnan(self.progress.held_out_loss):
            return
        self.progress.activity = Activity.EVALUATING
        losses = []
        for batch in self._data.held_out_batches(self._config.batch_size, self._config.eval_batches):
            if (loss := await self._unless_stopped(self._compute.run(self._model.evaluate, batch))) is None:
                return
            losses.append((loss, batch.shape[0]))
        if not losses:
            return
        mean = sum(loss * n for loss, n in losses) / sum(n for _, n in losses)
        self.progress.held_out_loss, self.progress.held_out_step = mean, self.progress.step
        if math.isnan(self.progress.first_held_out_loss):
            self.progress.first_held_out_loss = mean
        log.info("step %d: held-out loss %.4f", self.progress.step, mean)

    # -- joining --------------------------------------------------------------------------------------------

    async def _join(self) -> None:
        """Take the neighbours' step, and their copies of the blocks whose phases this peer missed."""
        while not self._stopping.is_set():
            highest = self._network.highest_step()
            if highest is None or highest <= self.progress.step:
                return
            missed = self._missed(highest)
            if not missed:
                self.progress.step = highest
                return
            donors = self._network.donors()
            self.progress.activity = Activity.JOINING
            count = "1 block" if len(missed) == 1 else f"{len(missed)} blocks"
            self.progress.waiting_for = (
                f"{count} from {', '.join(sorted(map(self._network.name_of, donors)))}"
            )
            log.info("joining at step %d: fetching %s", highest, self.progress.waiting_for)
            left = await self._unless_stopped(fetch_blocks(donors, missed, self._take))
            if left is not None and len(left) == len(missed):
                await self._network.wait_change()
            self.progress.waiting_for = ""
            await self._answer_save_requests()

    def _phases_behind(self) -> bool:
        """Whether others are in a later phase: then their copies are wanted, and not only their step."""
        highest = self._network.highest_step()
        return highest is not None and self.schedule.position(highest).phase > self.position.phase

    async def _wait_for_peers(self) -> None:
        """Wait for ``min_peers`` others before the first step, and a moment until they know of this one."""
        wanted = self._config.min_peers
        while not self._stopping.is_set() and (here := self._network.training_peers) < wanted:
            self.progress.activity = Activity.WAITING
            self.progress.waiting_for = f"neighbours that train ({wanted} wanted, {here} here)"
            await self._network.wait_change()
            await self._answer_save_requests()
        self.progress.waiting_for = ""
        with suppress(TimeoutError):
            async with asyncio.timeout(KNOWN_S):
                while not self._stopping.is_set() and not self._network.known_to_neighbours:
                    await self._network.wait_change()

    def _missed(self, step: int) -> list[int]:
        """Blocks that changed among the neighbours in phases of which this peer has nothing."""
        current = self.schedule.position(step)
        latest = {b: self.schedule.last_phase(b, step) for b in range(self.schedule.blocks)}
        if current.inner:
            latest[current.block] = current.phase
        mine = dict(self._phases)
        if self._resumed is not None:
            mine[self._resumed.block] = self._resumed.phase
        return [b for b, phase in latest.items() if phase is not None and mine.get(b, -1) < phase]

    async def _take(self, block: int, donation: Donation) -> None:
        if self._resumed is not None and self._resumed.block == block:
            self._resumed = None  # its phase has passed: this copy is newer
        await self._compute.run(self._model.set_block, block, donation.values)
        here = self.schedule.position(donation.step)
        active = here.block == block and donation.active
        phase = here.phase if active else self.schedule.last_phase(block, donation.step)
        await self._changed(block, phase if phase is not None else -1)

    async def donate(self, block: int) -> Donation:
        """A copy of a block for a joiner."""
        if block >= len(self._model.plan):
            raise PeerError(f"there is no block {block}")
        async with self._whole_steps:
            # Active, or about to be again: what this peer came back with in the middle of the phase.
            active = self._active is not None and self._active.block.index == block
            resumed = self._resumed
            if resumed is not None and (resumed.block, resumed.phase) == (block, self.position.phase):
                active = True
            values = await self._compute.run(self._model.block, block)
            return Donation(values, self.progress.step, active)

    # -- saving ---------------------------------------------------------------------------------------------

    async def _answer_save_requests(self) -> None:
        if not self._save_requests:
            return
        try:
            await self._save()
        except StateError as error:
            for request in self._save_requests:
                request.set_exception(error)
        else:
            for request in self._save_requests:
                request.set_result(self.progress.step)
        self._save_requests.clear()

    async def _save(self) -> None:
        """Write a checkpoint of the last completed step and wait for it. Raises StateError."""
        await self._begin_save()
        if self._saving is not None and (error := await self._saving) is not None:
            raise error

    async def _begin_save(self) -> None:
        """Snapshot now, write beside the training; a save that still runs is waited for first."""
        if self._saving is not None:
            await asyncio.wait({self._saving})
        step, position, updates = self.progress.step, self._position, 0
        tensors: dict[str, Tensor] = {}
        records: dict[str, int] = {}
        if self._active is not None:
            # Not on the compute thread, where an abandoned gradient may be under way; it changes none of these.
            tensors = await asyncio.get_running_loop().run_in_executor(self._io, self._active.tensors)
            updates, records[ACTIVE_BLOCK] = self._active.state.updates, self._active.block.index
        elif self._resumed is not None:
            tensors, updates = dict(self._resumed.tensors), self._resumed.updates
            records[ACTIVE_BLOCK] = self._resumed.block
        blocks = dict(self._unsaved)
        snapshot = Snapshot(
            RunRecord(
                fingerprint=self.spec.fingerprint,
                spec=self.spec.canonical(),
                set_fields=tuple(sorted(self._set_fields)),
                step=step,
                updates=updates,
                data=position.to_dict(),
                records=records,
            ),
            blocks,
            tensors,
        )
        self._saving = asyncio.ensure_future(self._write(snapshot, blocks))

    async def _write(self, snapshot: Snapshot, blocks: dict[int, TrainedBlock]) -> StateError | None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._io, self._store.save, snapshot)
        except StateError as error:
            self.notice(str(error))
            return error
        for index, block in blocks.items():
            if self._unsaved.get(index) is block:
                del self._unsaved[index]
        return None

    def notice(self, text: str) -> None:
        """Tell the operator, in the log and the status."""
        if self._notices.add(text):
            log.warning(text)
