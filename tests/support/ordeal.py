"""Seeded schedules of faults, and what must hold however they fall."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

from decad.core import coding
from decad.core.overlay import neighbours
from decad.daemon import fetch
from decad.errors import NetworkError
from support.cluster import DISK_S, Cluster, Machine
from support.virtual import run
from support.weather import CHANNELS, Weather

NAMES = "abcdefghijklmnopqrstuvwx"
SIZES = (3,) * 6 + (4,) * 6 + (5,) * 4 + (6, 6, 8, 8, 12, 24)
"""Peers of a schedule, one of these."""
KINDS = (
    *("kill", "kill", "stop", "restart", "all gone", "cut", "split", "slow peer", "slow disk"),
    *("loss", "repeat", "swap", "flip", "break", "delay"),
)
"""The last six are weather, one way between two peers."""
STEP_S = 0.25
"""A gradient takes about so long."""
CHUNK = 9
"""Values of one chunk, so that a block of 24 travels in three."""
TOGETHER_S = 180.0
"""Until all are at one step again: a request for a block that was swallowed is given up after `FIRST_PATIENCE_S`;
dialling again, greeting, and a few of a slow peer's steps take the rest."""
STOP_S = 10.0
"""A stop takes less, at any moment."""


class Fault(NamedTuple):
    """One thing that happens to ``who`` at ``at`` virtual seconds."""

    at: float
    kind: str
    who: tuple[str, ...]
    figure: float = 0.0

    def __str__(self) -> str:
        figure = f" {self.figure:.3g}" if self.figure else ""
        return f"{self.at:7.2f} s  {self.kind} {' '.join(self.who)}{figure}"


@dataclass(frozen=True)
class Schedule:
    """Everything about one run. ``own``: see `ToyModel`, by peer."""

    seed: int
    names: str
    settings: dict[str, Any]
    own: tuple[float, ...]
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        settings = ", ".join(f"{key} {value}" for key, value in self.settings.items())
        lines = [f"seed {self.seed}: {len(self.names)} peers; {settings}", *map(str, self.faults)]
        return "\n  ".join(lines)


@dataclass
class Outcome:
    """What a run came to."""

    schedule: Schedule
    steps: int = 0
    pairs: int = 0
    seconds: float = 0.0
    """Virtual."""
    faults: Counter[str] = field(default_factory=Counter)
    """By kind: those of the schedule, and the messages that met one."""
    digest: str = ""
    failure: str = ""


def draw(seed: int) -> Schedule:
    """The schedule of a seed."""
    chance = random.Random(f"schedule {seed}")
    names = NAMES[: chance.choice(SIZES)]
    settings: dict[str, Any] = {
        "overlay": chance.choice(["full", "ring", "exponential"]),
        "encoding": chance.choice(["fp32", "bf16-delta"]),
        "moments": chance.choice(["rowwise", "gossip", "signal", "none"]),
        "inner_steps": chance.choice([3, 5, 8]),
        "order": chance.choice(["descending", "shuffled"]),
    }
    faults: list[Fault] = []
    at = chance.uniform(0, 6)  # the first may come before the first step
    for _ in range(chance.randrange(3, 11)):
        at += chance.expovariate(1 / 1.5)
        faults += _fault(chance, names, at)
    own = tuple(chance.uniform(-1, 1) for _ in names)
    return Schedule(seed, names, settings, own, tuple(sorted(faults)))


def _fault(chance: random.Random, names: str, at: float) -> list[Fault]:
    kind = chance.choice(KINDS)
    until = at + chance.choice([0.3, 2.0, 6.0, 15.0])
    some = tuple(chance.sample(names, chance.randrange(1, len(names))))
    one, other = chance.sample(names, 2)
    match kind:
        case "kill" | "stop":
            return [Fault(at, kind, (one,)), Fault(until, "start", (one,))]
        case "restart":
            return [Fault(at, "stop", (one,)), Fault(at, "start", (one,))]
        case "all gone":
            end = chance.choice(["kill", "stop"])
            back = chance.sample(names, len(names))
            return [Fault(at + chance.uniform(0, 1), end, (name,)) for name in names] + [
                Fault(until + chance.uniform(1, 8), "start", (name,)) for name in back
            ]
        case "cut":
            return [Fault(at, "cut", (one, other)), Fault(until, "heal", (one, other))]
        case "split":
            return [Fault(at, "split", some), Fault(until, "join", some)]
        case "slow peer":
            return [Fault(at, kind, (one,), chance.choice([2, 3, 10])), Fault(until, kind, (one,), 1)]
        case "slow disk":
            return [Fault(at, kind, some, chance.choice([10, 100])), Fault(until, kind, some, 1)]
        case "delay":
            return [
                Fault(at, kind, (one, other), chance.choice([0.05, 0.3])),
                Fault(until, "calm", (one, other)),
            ]
    share = chance.choice([0.02, 0.1, 0.5, 1.0]) if kind == "loss" else chance.choice([0.01, 0.1])
    return [Fault(at, kind, (one, other), share), Fault(until, "calm", (one, other))]


def undergo(schedule: Schedule, folder: Path) -> Outcome:
    """Run a schedule and see to it that all holds."""
    ends = {"calm", "heal", "join", "start"}
    outcome = Outcome(
        schedule, faults=Counter(f.kind for f in schedule.faults if f.kind not in ends and f.figure != 1)
    )
    chunks = dict.fromkeys(coding.CHUNK_ELEMENTS, CHUNK)
    with patch.dict(coding.CHUNK_ELEMENTS, chunks), patch.object(fetch, "CHUNK_ELEMENTS", CHUNK):
        try:
            run(_Ordeal(schedule, folder, outcome).run())
        except Exception as error:
            outcome.failure = "; ".join(_reasons(error))
    return outcome


class _Ordeal:
    def __init__(self, schedule: Schedule, folder: Path, outcome: Outcome) -> None:
        self._schedule, self._outcome = schedule, outcome
        self._cluster = Cluster(folder, seed=schedule.seed, **schedule.settings)
        self._trace = hashlib.sha256()
        self._step_s = dict.fromkeys(schedule.names, STEP_S)
        self._stops: dict[str, asyncio.Task[None]] = {}
        self._chance = random.Random(f"ordeal {schedule.seed}")

    async def run(self) -> None:
        loop, names, cluster = asyncio.get_running_loop(), self._schedule.names, self._cluster
        async with cluster:
            for name in names:
                self._start(name)
            for fault in self._schedule.faults:
                await asyncio.sleep(fault.at - loop.time())
                self._check()
                await self._apply(fault)
            await self._all_well()
            await self._together()
            self._book()
            await self._all_stop()
            self._check()
            self._outcome.seconds = loop.time()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left hanging: {left}"

    # -- faults ---------------------------------------------------------------------------------------------

    async def _apply(self, fault: Fault) -> None:
        cluster, names = self._cluster, self._schedule.names
        who = fault.who[0]
        machine = cluster[who]
        match fault.kind:
            case "kill":
                await cluster.kill(who)
            case "stop":
                if machine.runs and who not in self._stops:
                    self._stops[who] = asyncio.create_task(self._stop(who))
            case "start":
                await self._stopped(who)
                if not machine.runs:
                    self._start(who)
            case "cut":
                cluster.cut({who}, {fault.who[1]})
            case "heal":
                cluster.heal({who}, {fault.who[1]})
            case "split":
                cluster.cut(set(fault.who), set(names) - set(fault.who))
            case "join":
                cluster.heal(set(fault.who), set(names) - set(fault.who))
            case "slow peer":
                machine.step_s = self._step_s[who] = STEP_S * fault.figure
            case "slow disk":
                for name in fault.who:
                    cluster[name].disk_s = DISK_S * fault.figure
            case "calm":
                cluster.network.weather.pop(self._way(fault), None)
            case "delay":
                weather = Weather(latency_s=fault.figure, jitter_s=fault.figure)
                cluster.network.weather[self._way(fault)] = weather
            case kind:
                before = cluster.network.weather.get(self._way(fault), cluster.network.usual)
                share = {"break": "cut"}.get(kind, kind)
                channels = tuple(self._chance.sample(CHANNELS, self._chance.randrange(1, 4)))
                cluster.network.weather[self._way(fault)] = replace(
                    before, channels=channels, **{share: fault.figure}
                )

    def _way(self, fault: Fault) -> tuple[str, str]:
        one, other = (self._cluster[name].host for name in fault.who)
        return one, other

    def _start(self, name: str) -> None:
        names = self._schedule.names
        own = self._schedule.own[names.index(name)]
        others = tuple(other for other in names if other != name)
        self._keep_steps(name)
        machine = self._cluster.start(name, peers=others, own=own, lr=0.05)
        machine.step_s = self._step_s[name]

    async def _stopped(self, name: str) -> None:
        """A stop of this peer that is under way ends."""
        if (stop := self._stops.pop(name, None)) is not None:
            await stop

    async def _stop(self, name: str) -> None:
        loop, machine = asyncio.get_running_loop(), self._cluster[name]
        begun, task, process = loop.time(), machine.task, machine.process
        machine.peer.stop()
        await asyncio.wait({task})
        took = loop.time() - begun
        # The disk is slow by order of the schedule: what it was asked for before the end is its own affair.
        assert took < STOP_S, f"{name} took {took:.1f} s to stop"
        assert task.cancelled() or not process.tasks, f"{name} left tasks behind: {process.tasks}"

    # -- what must hold -------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Nobody broke down, but for those who reached nobody on their first start and are to say so."""
        for machine in self._cluster.machines.values():
            if machine.task.done() and not machine.task.cancelled():
                error = machine.task.exception()
                if error is not None and not isinstance(error, NetworkError):
                    raise error

    async def _all_well(self) -> None:
        """All faults end."""
        cluster, names = self._cluster, self._schedule.names
        cluster.network.weather.clear()
        cluster.heal(set(names), set(names))
        for name in names:
            await self._stopped(name)
            machine = cluster[name]
            machine.step_s = self._step_s[name] = STEP_S
            machine.disk_s = DISK_S
            if not machine.runs:
                self._check()
                self._start(name)

    async def _together(self) -> None:
        """All train one step, within one of their neighbours', and mix with all of them."""
        loop, machines = asyncio.get_running_loop(), list(self._cluster.machines.values())
        until = loop.time() + TOGETHER_S
        while not self._are_together(machines):
            self._check()
            if loop.time() > until:
                where = "; ".join(
                    f"{m.name} {m.peer.progress.activity.value} at step {m.step}"
                    f" {m.peer.progress.waiting_for} {m.peer.notices.splitlines()[-2:]}"
                    for m in machines
                )
                raise AssertionError(f"not together after {TOGETHER_S:.0f} s: {where}")
            await asyncio.sleep(0.1)
            for m in machines:
                if not m.runs:  # it reached nobody, and is started again
                    self._start(m.name)

    def _are_together(self, machines: list[Machine]) -> bool:
        ids = {m.id: m for m in machines}
        for m in machines:
            near = neighbours(str(self._schedule.settings["overlay"]), ids.keys(), m.id)
            if not m.runs or not m.peer.steps or any(abs(ids[n].step - m.step) > 1 for n in near):
                return False
            last = m.peer.steps[-1]
            if not last.complete or len(last.weights) != len(near):
                return False
        return True

    async def _all_stop(self) -> None:
        """At moments of no choice."""
        for name in self._chance.sample(self._schedule.names, len(self._schedule.names)):
            await asyncio.sleep(self._chance.uniform(0, 0.1))
            await self._stop(name)

    def _keep_steps(self, name: str) -> None:
        """The steps of the process that ended are part of the trace."""
        if name not in self._cluster.machines:
            return
        for step in self._cluster[name].peer.steps:
            self._outcome.steps += 1
            assert bool(torch.isfinite(step.theta).all()), (
                f"{name}: a value of block {step.block} is not finite"
            )
            figures = f"{name} {step.number} {step.at:.9f} {step.block} {step.complete} {step.weights}"
            self._trace.update(figures.encode() + step.theta.numpy().tobytes())

    def _book(self) -> None:
        for name in self._schedule.names:
            self._keep_steps(name)
        self._outcome.pairs = self._cluster.ledger.pairs
        self._outcome.faults += self._cluster.network.counts
        self._outcome.digest = self._trace.hexdigest()
        for step, entries in self._cluster.ledger.steps.items():
            drift = self._cluster.ledger.drift(step, len(entries))
            assert drift.measured <= drift.bound, f"step {step} moved the average by {drift}"


def _reasons(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [reason for inner in error.exceptions for reason in _reasons(inner)]
    return [f"{type(error).__name__}: {error}"]
