"""Find the learning rate for one's own model, data and length of run, by short runs on this machine.

Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943) over a grid of rates around what suits the model's
width: many with short runs, the best of them with longer ones. Each is a run of its own from the base model, with the
schedule of the real one shortened to its length, since a rate that is best in the middle of a long schedule need not be
best at the end of a short one. Phases keep their length (docs/adr/0020-the-rate-follows-the-width.md).

What many machines do in a step is done by this one: as many batches, each with moments of its own, and the mean of
their moves. That is DECA on a full overlay with the moment rule `none`. Mixing takes the noise out of the steps, so
machines together want a higher rate than one alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from decad.config import PeerConfig, RunSpec
from decad.core.adam import AdamState, local_step
from decad.core.batch import Score
from decad.core.schedule import horizon
from decad.daemon.inputs import load_directory, load_files
from decad.daemon.phase import TrainingRule
from decad.data.local import LocalData, data_seed
from decad.data.position import DataPosition
from decad.errors import ConfigError, DataError

FACTORS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
"""Of the rates, tried first."""
FURTHEST = (1 / 128, 64.0)
"""How far the grid grows while the best rate is at its edge."""
RUNGS = ((len(FACTORS), 1 / 4), (3, 1 / 2), (2, 1.0))
"""How many rates are tried, and with which part of the longest run."""
WHOLE_RUNS = sum(count * part for count, part in RUNGS)
"""What all of it takes, in runs of the longest length."""
LEAST = 8
"""Steps of the longest run."""
TIMED = 3
"""Steps by which it is seen how long one takes."""
USUAL_STEPS = 1000
"""Of a run of which nobody says how long it is."""


class Trial(NamedTuple):
    """One short run."""

    lr: float
    adapter_lr: float
    """0 without adapters."""
    steps: int
    loss: float
    """Held-out, at its end; infinite if it diverged."""


@dataclass
class Tuning:
    """What was found."""

    wanted: int
    """Steps of the run to tune for."""
    base: float = math.nan
    """Held-out loss of the base model, nats."""
    trials: list[Trial] = field(default_factory=list)

    @property
    def longest(self) -> int:
        """Steps of the longest run."""
        return max(trial.steps for trial in self.trials)

    @property
    def best(self) -> Trial:
        """The best of the longest runs."""
        return min((t for t in self.trials if t.steps == self.longest), key=lambda trial: trial.loss)


class Tuner:
    """``spec`` and ``config``: those of the run to tune for. ``tell`` hears what is done."""

    def __init__(
        self,
        spec: RunSpec,
        config: PeerConfig,
        device: torch.device,
        machines: int,
        tell: Callable[[str], None],
    ) -> None:
        """Load the data and the model, for a run of so many ``machines``. Raises OperatorError."""
        self._config, self._machines, self._tell = config, machines, tell
        tell("loading the model")
        self._model = load_directory(spec, config, device)
        self._base: dict[int, Tensor] = {}
        """Block -> its values in the base model, fp32 on the host; of those that were trained."""
        self.spec = self._model.spec
        tell("reading the data")
        data = load_files(
            data_seed(self.spec.seed, config.name),
            config,
            self._model,
            lambda text: tell(f"waiting for {text}"),
        )
        if not isinstance(data, LocalData) or not data.held_out:
            raise DataError("Nothing is held out to compare rates by. Use a --held-out above 0.")
        self._data = data

    def tune(self, wanted: int, seconds: float) -> Tuning:
        """Tune for a run of ``wanted`` steps (0: as the schedule says) in about so many seconds."""
        wanted = wanted or self._config.steps or horizon(self.spec.schedule) or USUAL_STEPS
        found = Tuning(wanted)
        self._tell("evaluating the base model")
        began = time.monotonic()
        found.base = self._evaluate()
        evaluating = time.monotonic() - began
        longest = min(wanted, max(LEAST, self._affordable(seconds, evaluating)))
        ranked = list(FACTORS)
        for rung, (count, part) in enumerate(RUNGS):
            steps = max(1, round(longest * part))
            tried = {factor: self._try(factor, steps, found) for factor in ranked[:count]}
            while rung == 0 and (edge := _beyond(tried)) is not None:
                tried[edge] = self._try(edge, steps, found)
            ranked = sorted(tried, key=lambda factor: tried[factor].loss)
        return found

    def _affordable(self, seconds: float, evaluating: float) -> int:
        """Steps of the longest run that leave the whole in time."""
        seconds_of = []
        for _ in range(TIMED):
            began = time.monotonic()
            self._run(self.spec.lr, self.spec.adapter_lr, 1, len(self._model.plan))
            seconds_of.append(time.monotonic() - began)
        runs = sum(count for count, _ in RUNGS)
        left = seconds - sum(seconds_of) - runs * evaluating
        return int(left / (WHOLE_RUNS * median(seconds_of))) if left > 0 else 0

    def _try(self, factor: float, steps: int, found: Tuning) -> Trial:
        rates = (self.spec.lr, self.spec.adapter_lr)
        lr, adapter_lr = (min(1.0, float(f"{factor * rate:.3g}")) for rate in rates)
        loss = self._evaluate() if self._run(lr, adapter_lr, steps, found.wanted) else math.inf
        loss = loss if math.isfinite(loss) else math.inf
        trial = Trial(lr, adapter_lr, steps, loss)
        found.trials.append(trial)
        ended = f"{loss:.4f}" if math.isfinite(loss) else "diverged"
        self._tell(f"rate {lr:g}, {steps} steps: {ended}")
        return trial

    def _run(self, lr: float, adapter_lr: float, steps: int, wanted: int) -> bool:
        """Train the base model for ``steps`` steps; returns whether that went well."""
        for index, values in self._base.items():
            self._model.set_block(index, values)
        spec = shortened(self.spec.settled(lr=lr, adapter_lr=adapter_lr), steps, wanted)
        schedule, rule = spec.calendar(len(self._model.plan)), TrainingRule(spec)
        data, beside = DataPosition(), [] if self._model.adapters is None else [self._model.adapter_values]
        states = [[AdamState.zeros(v.numel(), v.device) for v in beside] for _ in range(self._machines)]
        phase, finite = -1, True
        for step in range(steps):
            here = schedule.position(step)
            if here.phase != phase:
                self._leave(step)
                phase, block = here.phase, self._model.plan[here.block]
                self._keep(here.block)
                master = self._model.activate(block)
                moments = [AdamState.zeros(block.numel, master.device) for _ in range(self._machines)]
            trained, rates = [master, *beside], (rule.rate(step), rule.adapter_rate(step))
            moved = [torch.zeros_like(values) for values in trained]
            for machine in range(self._machines):
                batch, data = self._data.batch(data, self._config.batch_size)
                loss, gradient = self._model.gradient(batch)
                finite &= math.isfinite(loss) and bool(torch.isfinite(gradient.sum()))
                parts = torch.split(gradient, [values.numel() for values in trained])
                own = [moments[machine], *states[machine]]
                for values, part, state, rate, sum_ in zip(trained, parts, own, rates, moved, strict=False):
                    half = values.clone()
                    local_step(half, part, state, rule.constants, rate)
                    sum_.add_(half.sub_(values), alpha=1 / self._machines)
            if not finite:
                break
            for values, sum_ in zip(trained, moved, strict=True):
                values.add_(sum_)
            self._model.sync()
        self._leave(steps)
        return finite

    def _leave(self, step: int) -> None:
        if step:
            self._model.deactivate(seed=self.spec.seed, step=step - 1)

    def _keep(self, block: int) -> None:
        """Note what the base model has there, before it is trained for the first time."""
        beside = [] if self._model.adapters is None else [self._model.adapters.index]
        for index in (block, *beside):
            if index not in self._base:
                self._base[index] = self._model.block(index)

    def _evaluate(self) -> float:
        batches = self._data.held_out_batches(self._config.batch_size, self._config.eval_batches)
        return reduce(Score.plus, map(self._model.evaluate, batches)).mean


def shortened(spec: RunSpec, steps: int, wanted: int) -> RunSpec:
    """A run of ``wanted`` steps as one of ``steps``: its schedule in proportion, its phases as long as they are."""
    part = steps / wanted
    kind, *rest = spec.schedule.split(":")
    if rest:
        kind = ":".join([kind, str(max(1, round(int(rest[0]) * part))), *rest[1:]])
    return spec.settled(schedule=kind, settle=0)


def _beyond(tried: Mapping[float, Trial]) -> float | None:
    """The factor to try next, as long as the best is at an edge; None when it is not, or the grid is wide enough.

    Raises ConfigError when every rate diverged.
    """
    lowest, highest = min(tried), max(tried)
    best = min(sorted(tried), key=lambda factor: tried[factor].loss)  # of none that ended, the lowest
    if best == lowest and lowest / 2 >= FURTHEST[0]:
        return lowest / 2
    if math.isinf(tried[best].loss):
        raise ConfigError(
            "Every rate diverged, however small. Look for broken records in --data, or for a broken model."
        )
    return 2 * highest if best == highest and 2 * highest <= FURTHEST[1] else None
