"""The step loop: gradient, local Adam step, exchange, mixing; block after block, round after round."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from functools import reduce
from typing import Any, Protocol, TypeVar

from torch import Tensor

from decad.config import PeerConfig, RunSpec
from decad.core.batch import Score
from decad.core.schedule import Position, Schedule
from decad.daemon.compute import ComputeThread
from decad.daemon.events import Evaluated, Finished, PhaseBegun, StepTaken
from decad.daemon.exchange import Exchange, describe
from decad.daemon.fetch import Donation, FetchPort
from decad.daemon.gathering import Gathering
from decad.daemon.neighbourhood import Neighbourhood
from decad.daemon.phase import TrainingRule
from decad.daemon.progress import Activity, Notices, Progress
from decad.daemon.replica import Replica
from decad.daemon.saver import Saver
from decad.data.position import DataPosition
from decad.data.source import Source
from decad.errors import OperatorError, StateError
from decad.membership.table import Stage
from decad.model.trainable import TrainableModel
from decad.state.checkpoint import Checkpoint, CheckpointStore
from decad.state.manifest import KnownPeer, RunRecord

log = logging.getLogger("decad")

KNOWN_S = 2.0
"""How long the first step waits for those who begin too, and for the neighbours' views. If two of them cannot reach
each other, as in networks where not everybody reaches everybody, views go on differing."""

T = TypeVar("T")


class Surroundings(Protocol):
    """What the trainer asks of the network."""

    neighbourhood: Neighbourhood

    def donors(self) -> dict[str, FetchPort]:
        """Peers within a step of the furthest, who can give blocks."""
        ...

    def announce(self, step: int, stage: Stage) -> None:
        """Tell the neighbours where this peer is."""
        ...

    def known_peers(self) -> tuple[KnownPeer, ...]:
        """Where peers were met."""
        ...


class Trainer:
    """Trains this peer's copy until ``config.steps`` or `stop`."""

    def __init__(
        self,
        spec: RunSpec,
        set_fields: frozenset[str],
        config: PeerConfig,
        model: TrainableModel,
        data: Source,
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
        self._rule = TrainingRule(spec)
        self._model, self._data, self._compute = model, data, compute
        self._exchange, self._network, self._neighbourhood = exchange, network, network.neighbourhood
        self.progress, self._notices = progress, notices
        self._stopping = asyncio.Event()
        self._saver = Saver(store, self.notice)
        self._replica = Replica(spec, self.schedule, self._rule, model, compute, self._saver, checkpoint)
        self._missing = ""
        """What was said of who was missing from the last step."""
        self._position = DataPosition()
        if checkpoint is not None:
            self.progress.step = checkpoint.run.step
            self._position = DataPosition.from_dict(checkpoint.run.data)

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
        self._neighbourhood.changed.set()

    async def run(self) -> None:
        """Train. Raises OperatorError when this machine's operator must act."""
        try:
            await self._evaluate()
            await self._join()
            await self._wait_for_peers()
            if self._phases_behind():  # who trained before was not here yet, or had not said so
                self._network.announce(self.progress.step, Stage.AWAY)
                await self._join()
            while not self._stopping.is_set() and not self._finished():
                self._skip_ahead()
                if (entered := await self._replica.enter(self.position)) is not None:
                    self._exchange.begin_phase(self.position.phase, entered.block.index, entered.coding)
                    here, block = self.position, entered.block
                    self.progress.tell(PhaseBegun(here.step, here.round, block.index, block.name))
                if self._due_evaluation():
                    await self._evaluate()
                await self._step()
                await self._saver.answer(self._save)
            if self._finished() and not self._stopping.is_set():
                await self._evaluate()
            await self._end()
        except OperatorError:
            # The steps before the one that failed are worth keeping.
            with suppress(StateError):
                await self._save()
            raise
        finally:
            self._network.announce(self.progress.step, Stage.AWAY)
            self._saver.close()

    async def _end(self) -> None:
        self.progress.activity = Activity.SAVING
        why = "finished" if self._finished() else "stopped"
        if self.progress.step or self._saver.owes:
            await self._save()
            log.info("%s at step %d, which is saved in %s", why, self.progress.step, self._config.state_dir)
        else:  # a checkpoint of nothing would only pin the settings of the next start
            log.info("%s before it took a step: there is nothing to save", why)
        await self._saver.answer(self._save)
        self.progress.tell(Finished(self.progress.step, stopped=not self._finished()))

    async def save(self) -> int:
        """Have a checkpoint written at the end of the current step; returns its step. Raises StateError."""
        if (request := self._saver.request()) is None:
            return self.progress.step
        self._neighbourhood.changed.set()
        return await request

    def _finished(self) -> bool:
        return 0 < self._config.steps <= self.progress.step

    # -- one step -------------------------------------------------------------------------------------------

    async def _step(self) -> None:
        active = self._replica.active
        if self._stopping.is_set() or active is None:
            return
        progress, loop = self.progress, asyncio.get_running_loop()
        step = progress.step
        progress.activity, progress.learning_rate = Activity.TRAINING, self._rule.rate(step)
        self._network.announce(step, Stage.TRAINING)
        neighbours = self._neighbourhood.edges()
        self._exchange.open(step, neighbours)
        begun = loop.time()
        computed = await self._unless_stopped(self._compute.run(self._gradient))
        if computed is None:
            self._exchange.abandon()
            return
        loss, gradient, tokens, following = computed
        del computed
        async with self._replica.whole_steps:
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
            progress.stepped(loss, tokens, half - begun, now - half, not proceed.missing)
            self._tell_missing(step, describe(proceed, self._neighbourhood.name_of))
            self._position = following
            progress.step = step + 1
            mixed, missing = self._names(neighbours.difference(proceed.missing)), self._names(proceed.missing)
            progress.tell(StepTaken(step, loss, mixed, missing))
            if progress.step % self.spec.inner_steps == 0:
                await self._replica.leave()
        if progress.step % self.spec.inner_steps == 0:
            self._saver.due()
        if self._saver.may_begin:
            await self._begin_save()

    def _gradient(self) -> tuple[float, Tensor, int, DataPosition]:
        """Of the next batch, on the compute thread: mean loss, gradient, tokens, and where the data goes on."""
        batch, following = self._data.batch(self._position, self._config.batch_size)
        loss, gradient = self._model.gradient(batch, self._stopping.is_set)
        return loss, gradient, batch.tokens, following

    def _names(self, peers: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(map(self._neighbourhood.name_of, peers)))

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
        highest = self._neighbourhood.furthest_neighbour()
        if highest is None or highest <= self.progress.step + 1:
            return
        if self._config.steps:
            highest = min(highest, self._config.steps)
        skipped = highest - self.progress.step
        self.progress.steps_skipped += skipped
        self.notice(f"skipped {skipped} steps to catch up with the neighbours at step {highest}.")
        self.progress.step = highest

    # -- evaluation -----------------------------------------------------------------------------------------

    def _due_evaluation(self) -> bool:
        every = self.spec.eval_every or self.schedule.steps_per_round
        return self.progress.step % every == 0 and self.progress.step != self.progress.held_out_step

    async def _evaluate(self) -> None:
        if self.progress.step == self.progress.held_out_step and not math.isnan(self.progress.held_out_loss):
            return
        self.progress.activity = Activity.EVALUATING
        batches = self._data.held_out_batches(self._config.batch_size, self._config.eval_batches)

        def evaluate() -> Score | None:
            batch = next(batches, None)
            return None if batch is None else self._model.evaluate(batch)

        scores = []
        while (score := await self._unless_stopped(self._compute.run(evaluate))) is not None:
            scores.append(score)
        if self._stopping.is_set() or not scores or not (whole := reduce(Score.plus, scores)).predictions:
            return
        self.progress.held_out_loss, self.progress.held_out_step = whole.mean, self.progress.step
        if math.isnan(self.progress.first_held_out_loss):
            self.progress.first_held_out_loss = whole.mean
        accuracy = "" if whole.accuracy is None else f", accuracy {whole.accuracy:.1%}"
        self.progress.tell(Evaluated(self.progress.step, whole.mean, whole.accuracy))
        log.info("step %d: held-out loss %.4f%s", self.progress.step, whole.mean, accuracy)

    # -- joining --------------------------------------------------------------------------------------------

    async def _join(self) -> None:
        """Take the neighbours' step, and their copies of the blocks whose phases this peer missed."""
        gathering = Gathering(self._model.plan)
        while not self._stopping.is_set():
            highest = self._neighbourhood.highest_step()
            if highest is None or highest <= self.progress.step:
                return
            missed = self._replica.missed(highest)
            if not missed:
                self.progress.step = highest
                return
            donors = self._network.donors()
            self.progress.activity = Activity.JOINING
            count = "1 block" if len(missed) == 1 else f"{len(missed)} blocks"
            self.progress.waiting_for = (
                f"{count} from {', '.join(sorted(map(self._neighbourhood.name_of, donors)))}"
            )
            log.info("joining at step %d: fetching %s", highest, self.progress.waiting_for)
            left = await self._unless_stopped(gathering.fetch(donors, missed, self._replica.take))
            if left is not None and len(left) == len(missed):
                await self._neighbourhood.wait_change()
            self.progress.waiting_for = ""
            await self._saver.answer(self._save)

    def _phases_behind(self) -> bool:
        """Whether others are in a later phase: then their copies are wanted, and not only their step."""
        highest = self._neighbourhood.highest_step()
        return highest is not None and self.schedule.position(highest).phase > self.position.phase

    async def _wait_for_peers(self) -> None:
        """Wait for ``min_peers`` others before the first step, and a moment until all who begin know of each other."""
        wanted, neighbourhood = self._config.min_peers, self._neighbourhood
        self._network.announce(self.progress.step, Stage.READY)
        while not self._stopping.is_set() and (here := neighbourhood.ready) < wanted:
            self.progress.activity = Activity.WAITING
            self.progress.waiting_for = f"neighbours that train ({wanted} wanted, {here} here)"
            await neighbourhood.wait_change()
            await self._saver.answer(self._save)
        self.progress.waiting_for = ""
        self._network.announce(self.progress.step, Stage.TRAINING)
        with suppress(TimeoutError):
            async with asyncio.timeout(KNOWN_S):
                while not self._stopping.is_set() and not (
                    neighbourhood.all_have_begun and neighbourhood.known_to_neighbours
                ):
                    await neighbourhood.wait_change()

    async def donate(self, block: int) -> Donation:
        """A copy of a block for a joiner. Raises PeerError."""
        return await self._replica.donate(block, lambda: self.progress.step)

    # -- saving ---------------------------------------------------------------------------------------------

    async def _save(self) -> int:
        """Write a checkpoint of the last completed step and wait for it; returns its step. Raises StateError."""
        await self._saver.ready()
        await self._begin_save()
        await self._saver.wait()
        return self.progress.step

    async def _begin_save(self) -> None:
        """Snapshot now, write beside the training."""
        step, position = self.progress.step, self._position
        held = await self._replica.held()
        run = RunRecord(
            fingerprint=self.spec.fingerprint,
            spec=self.spec.canonical(),
            set_fields=tuple(sorted(self._set_fields)),
            step=step,
            data=position.to_dict(),
            peers=self._network.known_peers(),
        )
        self._saver.begin(run, held)

    def notice(self, text: str) -> None:
        """Tell the operator, in the log and the status."""
        if self._notices.add(text):
            log.warning(text)
