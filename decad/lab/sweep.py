"""Several variants of an experiment, each at the learning rate that serves it best, over several seeds.

First every variant with several rates runs at each of them with one seed; then all at their best with the seeds to
report. The best is that of the lowest final loss of the averaged model. What has finished is not run again.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from statistics import mean
from typing import Any

from decad.errors import ConfigError
from decad.lab.experiment import Experiment, from_file, load_experiment, make_experiment
from decad.lab.run import run
from decad.lab.runs import RESULT, read_run

CHOOSING_SEED = 0


@dataclass(frozen=True)
class Plan:
    """What a sweep file says."""

    base: Mapping[str, Any]
    """Settings of all variants."""
    variants: Sequence[Mapping[str, Any]]
    """Each with a ``name``, and ``lr``: the rates of its grid."""
    seeds: Sequence[int]
    """To report."""

    def experiment(self, variant: Mapping[str, Any], lr: float, seed: int) -> Experiment:
        """Raises ConfigError."""
        settings = {**self.base, **variant, "lr": lr, "seed": seed}
        return make_experiment(settings, f"variant {variant['name']}")


@dataclass(frozen=True)
class Job:
    """One run."""

    experiment: Experiment
    directory: Path

    @property
    def done(self) -> bool:
        """Raises ConfigError if what was done there is something else."""
        if not (self.directory / RESULT).exists():
            return False
        found = load_experiment(self.directory)
        if found.model_copy(update={"threads": self.experiment.threads}) != self.experiment:
            raise ConfigError(
                f"{self.directory} holds a run with other settings than the plan has now. Name another directory with "
                "--into, or remove that one."
            )
        return True


@dataclass(frozen=True)
class State:
    """How far a sweep is."""

    done: int
    of: int
    running: tuple[str, ...]
    left_s: float
    """Seconds, from the runs so far; NaN until one has ended."""


def read_plan(file: Path, only: Sequence[str] = ()) -> Plan:
    """A TOML file: an experiment's settings, ``lr`` a list of rates, ``seeds``, and a table ``[[variants]]`` each.

    ``only``: names of the variants to run; none: all. Raises ConfigError.
    """
    values = from_file(file)
    seeds, variants, rates = (values.pop(key, None) for key in ("seeds", "variants", "lr"))
    if not isinstance(variants, list) or not variants or not isinstance(seeds, list):
        raise ConfigError(
            f"{file}: a sweep needs seeds = [1, 2, 3] and a table [[variants]] for each variant."
        )
    if CHOOSING_SEED in seeds:
        raise ConfigError(
            f"{file}: seed {CHOOSING_SEED} is the one by which rates are chosen. Report others."
        )
    made = [{"lr": rates, **variant} for variant in variants]
    for variant in made:
        if not variant.get("name") or not isinstance(variant["lr"], list) or not variant["lr"]:
            raise ConfigError(f"{file}: each variant needs a name and a list of rates: lr = [0.001, 0.003].")
    names = [variant["name"] for variant in made]
    if len(set(names)) < len(names) or set(only) - set(names):
        wrong = f"no variant {min(set(only) - set(names))}" if set(only) - set(names) else "a name twice"
        raise ConfigError(f"{file}: there is {wrong}. The variants are {', '.join(names)}.")
    plan = Plan(values, [variant for variant in made if not only or variant["name"] in only], seeds)
    for chosen in plan.variants:  # what is wrong is told before anything runs
        plan.experiment(chosen, chosen["lr"][0], CHOOSING_SEED)
    return plan


def sweep(
    plan: Plan, into: Path, jobs: int, tell: Callable[[State], None] = lambda state: None
) -> dict[str, float]:
    """Run what has not finished, ``jobs`` (0: a processor each) at once; returns each variant's best rate.

    Where the plan sets no threads, the runs at work share the processors.
    A run that diverges counts as the worst. Raises OperatorError when a run cannot begin.
    """
    jobs = jobs or os.cpu_count() or 1
    threads = max(1, (os.cpu_count() or 1) // jobs)
    grid = {
        variant["name"]: [_job(plan, variant, lr, CHOOSING_SEED, into, threads) for lr in variant["lr"]]
        for variant in plan.variants
        if len(variant["lr"]) > 1
    }
    reported = len(plan.seeds) * len(plan.variants)
    first = [job for jobs_of in grid.values() for job in jobs_of]
    with ProcessPoolExecutor(jobs, get_context("spawn"), _end_with_parent) as pool:
        _run_all(first, pool, jobs, reported, tell)
        chosen = {name: min(of, key=_final).experiment.spec.lr for name, of in grid.items()}
        best = {v["name"]: chosen.get(v["name"], v["lr"][0]) for v in plan.variants}
        second = [
            _job(plan, variant, best[variant["name"]], seed, into, threads)
            for seed in plan.seeds  # an interrupted sweep has all variants with some seeds
            for variant in plan.variants
        ]
        _run_all(second, pool, jobs, 0, tell)
    return best


def _end_with_parent() -> None:
    """A worker would work on for hours for a sweep that was killed."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _job(plan: Plan, variant: Mapping[str, Any], lr: float, seed: int, into: Path, threads: int) -> Job:
    experiment = plan.experiment(variant, lr, seed)
    if not experiment.threads:
        experiment = experiment.model_copy(update={"threads": threads})
    slug = re.sub(r"[^\w.-]+", "-", variant["name"])
    kind = "grid" if seed == CHOOSING_SEED else "seeds"
    return Job(experiment, into / kind / slug / f"lr-{lr:g}-seed-{seed}")


def _run_all(
    jobs: Iterable[Job], pool: ProcessPoolExecutor, at_once: int, more: int, tell: Callable[[State], None]
) -> None:
    """``more``: runs that follow these, for the time that is left."""
    waiting = [job for job in jobs if not job.done]
    running: dict[Future[None], tuple[Job, float]] = {}
    total, took = len(waiting), list[float]()
    while waiting or running:
        while waiting and len(running) < at_once:
            job = waiting.pop(0)
            running[pool.submit(_run, job)] = job, time.monotonic()
        to_come = len(waiting) + more + len(running) / 2  # on the average they are half-way
        left = to_come * mean(took) / at_once if took else math.nan
        names = tuple(f"{job.experiment.name} lr {job.experiment.spec.lr:g}" for job, _ in running.values())
        tell(State(len(took), total, names, left))
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            _, begun = running.pop(future)
            future.result()
            took.append(time.monotonic() - begun)
    tell(State(total, total, (), 0.0))


def _run(job: Job) -> None:
    run(job.experiment, job.directory)


def _final(job: Job) -> float:
    found = read_run(job.directory)
    if found.result is None or found.result.diverged is not None:
        return math.inf
    loss = found.evaluations[-1].averaged.loss
    return loss if math.isfinite(loss) else math.inf
