"""One of the many peers of a lab run: the daemon's phases, without its event loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from decad.core.clipping import Clipping
from decad.core.layout import cut
from decad.core.mixing import Mixer
from decad.core.schedule import Position, Schedule
from decad.core.section import Section
from decad.core.spoiling import Acquaintance, StepDistances
from decad.daemon.adapters import Adapters
from decad.daemon.phase import ActiveBlock, TrainingRule
from decad.data.position import DataPosition
from decad.lab.attacks import Attack
from decad.lab.methods.base import Learner
from decad.model.trainable import TrainableModel


class LabPeer:
    """A model, its data, and how far both are."""

    def __init__(
        self,
        learner: Learner,
        model: TrainableModel,
        rule: TrainingRule,
        schedule: Schedule,
        checked: bool = True,
    ) -> None:
        """``checked``: whether it looks at what others tell before it mixes it."""
        self.name, self.id, self.model = learner.name, learner.id, model
        self.loss = 0.0
        """Of the last step, before it."""
        self.sent = 0
        """Bytes, so far."""
        self.compute_s = 0.0
        """Seconds of processor time, so far."""
        self.phases: dict[int, int] = {}
        """Block -> the last phase in which it was trained here or taken from another peer."""
        self.active: ActiveBlock | None = None
        self._phase = -1
        self._clipping = Clipping()
        self._adapters: Adapters | None = None
        if model.adapters is not None:
            self._adapters = Adapters(model.adapter_values, rule.adapter_rate, rule.constants)
        self.attack: Attack | None = None
        """What this peer does to the others."""
        self._began: Tensor | None = None
        self.data, self._batch_size = learner.data, learner.batch_size
        self._position = DataPosition()
        self._rule, self._schedule = rule, schedule
        self._mixer: Mixer | None = None
        self._checked = checked
        self._distances: StepDistances | None = None
        """Of this step, where they are looked at."""
        self._met = Acquaintance(schedule.inner_steps)
        self._shut_out: set[str] = set()
        """Whose blocks would have spoilt one's own."""

    @property
    def began(self) -> Tensor:
        """The active block as the phase found it."""
        assert self._began is not None
        return self._began

    def enter(self, here: Position) -> None:
        """Make the phase's block active."""
        if self.active is not None and self._phase == here.phase:
            return
        self.leave()
        with self._timed():
            self.active = ActiveBlock(
                self.model,
                self.model.plan[here.block],
                self._rule,
                clipping=self._clipping,
                adapters=self._adapters,
                settles=self._schedule.settles(here.step),
            )
        self._phase = here.phase
        self._began = self.active.theta.clone() if self.attack is not None else None

    def leave(self) -> None:
        """End the phase, wherever it is."""
        if self.active is None:
            return
        last = self._schedule.steps_of(self._phase)[-1]
        with self._timed():
            self.model.deactivate(seed=self._schedule.seed, step=last)
        self.phases[self.active.block.index] = self._phase
        self.active = None

    def train(self, step: int, mixes: bool, neighbours: int) -> None:
        """Gradient and local step; if there is an exchange, up to what others can read. Raises DivergedError."""
        with self._timed():
            batch, self._position = self.data.batch(self._position, self._batch_size)
            self.loss, gradient = self.model.gradient(batch)
            if self.attack is not None and self.attack.ascends:
                gradient.neg_()
            block = self._block()
            if mixes:
                accumulators = block.half_step(gradient, step)
                self._mixer = block.coding.mixer(accumulators, step, neighbours)
            else:
                block.local_step(gradient, step)
                self.model.sync()

    def keep_still(self, step: int, neighbours: int) -> None:
        """In the place of `train` where blocks are mixed alone."""
        with self._timed():
            block = self._block()
            self._mixer = block.coding.mixer(block.still_step(), step, neighbours)

    def tell(self, section: Section) -> Tensor:
        """What others decode of one section: fp32 [n]."""
        return self._block().coding.encoder.public[section].float()

    def hear(self, other: LabPeer, weight: float, told: Tensor | None = None) -> None:
        """Take in a neighbour's message; ``told``: its block, if that is not what it has."""
        with self._timed():
            mine, theirs = self._block(), other._block()
            assert self._mixer is not None
            if self._checked and self._distances is None:
                self._distances = StepDistances(mine.coding.watched)
            if other.id in self._shut_out:
                return
            beyond = mine.coding.beyond.get(Section.BLOCK, math.inf)
            if self._checked and told is not None and float(told.abs().max()) > beyond:
                return  # refused on arrival
            for section, chunk, start, stop in cut(mine.coding.sizes, mine.coding.encoder.chunk_elements):
                scale = mine.coding.scale(section, mine.state.updates, theirs.state.updates)
                values = theirs.coding.encoder.public[section][start:stop].float()
                if told is not None and section is Section.BLOCK:
                    values = told[start:stop]
                if self._distances is not None:
                    self._distances.add(section, other.id, start, values, self.tell(section))
                self._mixer.add(other.id, section, chunk, weight, values, scale)

    def mix(self, step: int, rho: float) -> None:
        """Finish the step; ``rho``: of the overlay, where blocks are mixed alone."""
        with self._timed():
            assert self._mixer is not None
            if self._distances is not None and (spoilers := self._met.spoilers(step, self._distances)):
                self._mixer.take_back()
                self._shut_out.update(spoilers)
            self._distances = None
            if self._schedule.settles(step):
                passes = step - self._schedule.end
                self._block().finish_still(self._mixer, self._schedule.position(step).inner, passes, rho)
            else:
                self._block().finish_step(self._mixer, step)
            self._mixer = None

    def message_bytes(self) -> int:
        """Of the message that is ready."""
        encoder = self._block().coding.encoder
        full = encoder.full_only or encoder.sequence == 0
        return sum(
            len(encoder.payload(section, chunk, full))
            for section, chunk, _, _ in cut(self._block().coding.sizes, encoder.chunk_elements)
        )

    def take(self, block: int, phase: int, donor: LabPeer) -> None:
        """Put a donor's copy of a block, as of ``phase``, in the place of one's own."""
        values = donor.model.block(block)
        self.model.set_block(block, values)
        self.phases[block] = phase
        donor.sent += values.nbytes

    def take_adapters(self, donor: LabPeer) -> None:
        """Put a donor's adapters, if there are any, in the place of one's own; the moments stay."""
        if (adapters := self.model.adapters) is not None:
            values = donor.model.block(adapters.index)
            self.model.set_block(adapters.index, values)
            donor.sent += values.nbytes

    def _block(self) -> ActiveBlock:
        assert self.active is not None
        return self.active

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begun = time.process_time()
        yield
        self.compute_s += time.process_time() - begun
