"""The step loop: gradient, local Adam step, exchange, mixing; block after block, round after round."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable
from contextlib import suppress

from decad.core.schedule import Position, Schedule
from decad.daemon.batches import Batches, Trained
from decad.daemon.compute import ComputeThread
from decad.daemon.context import PeerContext
from decad.daemon.ending import Ending
from decad.daemon.evaluation import Evaluation
from decad.daemon.events import Finished, PhaseBegun, StepTaken
from decad.daemon.exchange import Exchange, describe
from decad.daemon.fetch import Donation
from decad.daemon.interrupt import unless_set
from decad.daemon.loading import DRAWN_BY, Loaded
from decad.daemon.network import Network
from decad.daemon.phase import TrainingRule
from decad.daemon.progress import Activity
from decad.daemon.replica import Replica
from decad.daemon.saver import Saver
from decad.daemon.transfer import StateTransfer
from decad.errors import ConfigError, OperatorError, StateError
from decad.membership.credible import StepBound
from decad.membership.table import Stage
from decad.state.manifest import RunRecord

log = logging.getLogger("decad")

KNOWN_S = 2.0
"""How long the first step waits for those who begin too, and for the neighbours' views. If two of them cannot reach
each other, as in networks where not everybody reaches everybody, views go on differing."""


class Trainer:
    """Trains this peer's copy until ``config.steps`` or `stop`."""

    def __init__(
        self,
        context: PeerContext,
        loaded: Loaded,
        compute: ComputeThread,
        exchange: Exchange,
        network: Network,
    ) -> None:
        self._context, self._config, self.spec = context, context.config, context.run.spec
        self.progress = context.progress
        if self.spec.adapters and loaded.model.adapters is None:
            raise ConfigError(
                "adapters are for models that decad loads itself, not a program's own. Leave them out."
            )
        self._rule = TrainingRule(self.spec)
        self._compute = compute
        self._stopping = asyncio.Event()
        self._batches = Batches(self._config, loaded, self._stopping.is_set)
        self._exchange, self._network, self._neighbourhood = exchange, network, network.neighbourhood
        self._saver = Saver(loaded.store, self.progress.notice)
        if loaded.resumed is not None:
            network.bring_forward(loaded.resumed.end)
        schedule = self.spec.calendar(len(context.plan), network.end)
        self._replica = Replica(schedule, self._rule, loaded.model, compute, self._saver, loaded.resumed)
        self.ending = Ending(context, network, self._replica)
        self._transfer = StateTransfer(context, self._replica, network, self._stopping)
        self._evaluation = Evaluation(
            self._config, loaded.model, loaded.data, compute, self.progress, self._stopping
        )
        self._missing = ""
        """What was said of who was missing from the last step."""
        self._drawn_by = loaded.drawn_by
        self._apart = dict(loaded.resumed.apart) if loaded.resumed is not None else {}
        self.progress.epsilon = self._batches.epsilon

    @property
    def step(self) -> int:
        """The next step to take, or the one being taken."""
        return self.progress.step

    @property
    def schedule(self) -> Schedule:
        return self._replica.schedule

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
        refreshing = asyncio.create_task(self._transfer.refresh(self._saver.due))
        try:
            await self._evaluation.run()
            await self.ending.take()
            await self._transfer.catch_up(self._keep)
            await self._wait_for_peers()
            if self._phases_behind():  # who trained before was not here yet, or had not said so
                self._network.announce(self.progress.step, Stage.AWAY)
                await self._transfer.catch_up(self._keep)
            self._neighbourhood.bound = self._bound = StepBound(
                self.progress.step, self.spec.inner_steps, asyncio.get_running_loop().time()
            )
            while not self._stopping.is_set() and not self.ending.reached:
                await self.ending.take()
                await self._keep_up()
                if (entered := await self._replica.enter(self.position)) is not None:
                    here, block = self.position, entered.block
                    steps = self.schedule.steps_of(here.phase)
                    self._exchange.begin_phase(here.phase, steps, block.index, entered.coding)
                    self._transfer.phase_begins()
                    self.progress.tell(PhaseBegun(here.step, here.round, block.index, block.name))
                if self._due_evaluation():
                    await self._evaluation.run()
                await self._step()
                await self._saver.answer(self._save)
                if refreshing.done():
                    refreshing.result()
            if self.ending.reached and not self._stopping.is_set():
                await self._transfer.complete()
                await self.ending.evaluate(self._evaluation)
            await self._end()
        except OperatorError:
            # The steps before the one that failed are worth keeping.
            with suppress(StateError):
                await self._save()
            raise
        finally:
            self._network.announce(self.progress.step, Stage.AWAY)
            refreshing.cancel()
            await asyncio.wait({refreshing})
            await self._saver.close()

    async def _end(self) -> None:
        self.progress.activity = Activity.SAVING
        why = "finished" if self.ending.reached else "stopped"
        if self.progress.step or self._saver.owes:
            await self._save()
            log.info("%s at step %d, which is saved in %s", why, self.progress.step, self._config.state_dir)
        else:  # a checkpoint of nothing would only pin the settings of the next start
            log.info("%s before it took a step: there is nothing to save", why)
        await self._saver.answer(self._save)
        self.progress.tell(Finished(self.progress.step, stopped=not self.ending.reached))

    async def save(self) -> int:
        """Have a checkpoint written at the end of the current step; returns its step. Raises StateError."""
        self._neighbourhood.changed.set()
        step = await self._saver.requested()
        return self.progress.step if step is None else step

    # -- one step -------------------------------------------------------------------------------------------

    async def _step(self) -> None:
        active = self._replica.active
        if self._stopping.is_set() or active is None:
            return
        progress, loop = self.progress, asyncio.get_running_loop()
        step = progress.step
        settles = self.schedule.settles(step)
        progress.activity = Activity.SETTLING if settles else Activity.TRAINING
        progress.learning_rate = self._rule.rate(step)
        self._network.announce(step, Stage.TRAINING)
        neighbours = self._exchange.open(step, self._neighbourhood.edges(), patient=settles)
        begun = loop.time()
        trained: Trained | None = None
        if not settles:
            trained = await unless_set(self._stopping, self._compute.run(self._batches.gradient))
            if trained is None:
                self._exchange.abandon()
                return
        async with self._replica.whole_steps:
            if trained is None:
                accumulators = await self._compute.run(active.still_step)
            else:
                accumulators = await self._compute.run(active.half_step, trained.gradient.pop(), step)
                self._batches.position = trained.following
            half = loop.time()
            mixing = asyncio.ensure_future(
                self._exchange.mix(active.state.updates, accumulators, half - begun)
            )
            if self._stopping.is_set():
                await asyncio.sleep(0)
                self._exchange.hurry()
            proceed, mixer = await mixing
            if trained is None:
                rho = self._neighbourhood.contraction()
                passes = step - self.schedule.end
                await self._compute.run(active.finish_still, mixer, self.position.inner, passes, rho)
            else:
                await self._compute.run(active.finish_step, mixer, step)
            now = loop.time()
            self._bound.took(now - begun)
            if self._exchange.furthest >= 0:
                self._apart[active.block.index] = self._exchange.furthest
            if trained is not None:
                progress.trained(trained.loss, trained.tokens)
            progress.stepped(half - begun, now - half, not proceed.missing)
            self._tell_missing(step, describe(proceed, self._neighbourhood.labels))
            progress.epsilon = self._batches.epsilon
            progress.step = step + 1
            mixed, missing = self._names(neighbours.difference(proceed.missing)), self._names(proceed.missing)
            progress.tell(StepTaken(step, trained.loss if trained else math.nan, mixed, missing))
            phase_ends = self.position.inner == 0
            if phase_ends:
                await self._replica.leave()
        if phase_ends:
            self._saver.due()
        if self._saver.may_begin:
            await self._begin_save()

    def _names(self, peers: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(map(self._neighbourhood.name_of, peers)))

    def _tell_missing(self, step: int, said: str) -> None:
        """Once, until it changes: of a neighbour that is late at every step, one line is enough."""
        if said and said != self._missing and not self._stopping.is_set():
            self.progress.notice(f"step {step} {said}.")
        self._missing = said

    async def _keep_up(self) -> None:
        """More than one step behind: go to the neighbours' step; what was trained stays in one's own copy.

        If whole phases passed meanwhile, as while a laptop slept, their blocks are fetched first, as by a peer that
        returns. Only neighbours of the overlay count: on a ring of eight, peers at opposite ends may be four steps
        apart and nobody late.
        """
        before, highest = self.progress.step, self._neighbourhood.furthest_neighbour()
        if highest is None or highest <= before + 1:
            return
        fetched = 0
        if self._transfer.missed_whole_phases(highest):
            self._network.announce(before, Stage.AWAY)
            await self._replica.leave()
            fetched = await self._transfer.catch_up(self._keep)
            if self._stopping.is_set():
                return
            await self._begin()
            highest = self.progress.step
        self.progress.step = min(highest, self.ending.last or highest)
        if (skipped := self.progress.step - before) <= 0:  # whoever was ahead has left meanwhile
            return
        self.progress.steps_skipped += skipped
        self._neighbourhood.followed(self.progress.step)
        self._bound.jumped(self.progress.step, asyncio.get_running_loop().time())
        also = f", and fetched the blocks that were trained meanwhile ({fetched})" if fetched else ""
        self.progress.notice(
            f"skipped {skipped} steps to catch up with the neighbours at step {self.progress.step}{also}."
        )

    # -- before and between steps ---------------------------------------------------------------------------

    def _due_evaluation(self) -> bool:
        every = self.spec.eval_every or self.schedule.steps_per_round
        step = self.progress.step
        due = step == self.schedule.end if self.schedule.settles(step) else step % every == 0
        return due and step != self.progress.held_out_step

    def _phases_behind(self) -> bool:
        """Whether others are in a later phase: then their copies are wanted, and not only their step."""
        highest = self._neighbourhood.highest_step()
        return highest is not None and self.schedule.position(highest).phase > self.position.phase

    async def _wait_for_peers(self) -> None:
        """Wait for ``min_peers`` others before the first step."""
        wanted, neighbourhood = self._config.min_peers, self._neighbourhood
        self._network.announce(self.progress.step, Stage.READY)
        while not self._stopping.is_set() and (here := neighbourhood.ready) < wanted:
            self.progress.activity = Activity.WAITING
            self.progress.waiting_for = f"neighbours that train ({wanted} wanted, {here} here)"
            await neighbourhood.wait_change()
            await self._saver.answer(self._save)
        self.progress.waiting_for = ""
        await self._begin()

    async def _begin(self) -> None:
        """Tell the neighbours that this peer trains, and wait a moment until they count on it."""
        neighbourhood = self._neighbourhood
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

    async def _keep(self) -> None:
        """Write what was fetched as it comes: not a second model in memory, nor lost if this join is cut short."""
        await self._saver.ready()
        await self._begin_save()
        await self._saver.answer(self._save)

    async def _begin_save(self) -> None:
        """Snapshot now, write beside the training."""
        step, position = self.progress.step, self._batches.position
        held, adapters = await self._replica.held(), await self._replica.adapters()
        run = RunRecord(
            fingerprint=self.spec.fingerprint,
            spec=self.spec.canonical(),
            set_fields=tuple(sorted(self._context.run.set_fields)),
            step=step,
            apart=dict(self._apart),
            end=self._network.end,
            data={**position.to_dict(), DRAWN_BY: self._drawn_by},
            peers=self._network.known_peers(),
        )
        self._saver.begin(run, held, adapters)
