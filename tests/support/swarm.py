"""Daemons on machines of their own, what one does to them, and whether all is well again afterwards.

Each machine is a network namespace, at whose port 7700 its daemon listens; every daemon is told of all the others.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path

import pytest
import torch

from decad._proto import control_pb2 as pb
from decad.core.schedule import Schedule
from decad.errors import NoDaemonError, StateError
from decad.membership.agreement import parse_spec
from decad.model.trainable import TrainableModel
from decad.state.checkpoint import Checkpoint, open_checkpoint
from support.daemon import FAST, POLL_S, Daemon, Fleet
from support.netns import Namespaces

PORT = 7700
INNER_STEPS = 4
WHOLE_STEPS = 4
"""So many steps in a row with everybody's whole block, and training is as it was before."""
PATIENCE_S = 90.0
"""How long a test waits for what takes seconds on a machine that has nothing else to do."""
PROMPT_S = 10.0
"""The promise: a stopped daemon is gone within this time."""
APART = 0.5
"""Two copies of a block that train together are nearer to each other than this part of the way that they came."""

PACED = """
import time
from decad.model.trainable import TrainableModel
gradient = TrainableModel.gradient
def paced(self, *batch):
    time.sleep({pace})
    return gradient(self, *batch)
TrainableModel.gradient = paced
"""
"""A tiny model's steps take as long as a real one's, and leave the processor to the others."""

AT_SECOND_CHUNK = """
import os
from decad.daemon.outbox import OutgoingMessage
chunk, order = OutgoingMessage.chunk, {order!r}
def cut(self, number, full):
    if number == 1 and os.path.exists(order):
        with open(order) as file:
            signals = file.read()
        os.unlink(order)
        os.kill(os.getpid(), int(signals))
    return chunk(self, number, full)
OutgoingMessage.chunk = cut
"""
"""The process signals itself when the first chunk of several is sent: the file ``order`` says with which number."""


class Swarm:
    """``names``: single letters. ``pace``: seconds that a gradient takes at least."""

    def __init__(self, fleet: Fleet, net: Namespaces, names: str, pace: float = 0.05) -> None:
        self.net, self.names = net, names
        self.lost: list[str] = []
        """What should never be: a line each."""
        self._fleet, self._pace = fleet, pace
        self._ids: dict[str, str] = {}

    def __getitem__(self, name: str) -> Daemon:
        return self._fleet[name]

    def number(self, name: str) -> int:
        """Of the machine on which the peer runs."""
        return self.names.index(name)

    def directory(self, name: str) -> Path:
        return self._fleet.folder / name

    # -- coming and going -----------------------------------------------------------------------------------

    def begin(self, *options: str, names: str = "") -> None:
        """Start all of ``names`` (default: all), which wait for each other, and return when all mix with all."""
        names = names or self.names
        for name in names:
            self.start(name, "--min-peers", str(len(names) - 1), *options)
        self.until_together(names)
        self._ids |= {name: self[name].status().peer_id for name in names}

    def start(self, name: str, *options: str) -> Daemon:
        """Start a peer, which finds its earlier state if it ran before."""
        others = [self.net.address(self.number(other)) for other in self.names if other != name]
        return self._fleet.start(
            name,
            *("--listen", f"{self.net.address(self.number(name))}:{PORT}", "--insecure"),
            *("--peers", ",".join(f"{address}:{PORT}" for address in others)),
            *("--inner-steps", str(INNER_STEPS), "--lr", "1e-3", *options),
            defaults=FAST,
            namespace=self.net.name(self.number(name)),
            before=PACED.format(pace=self._pace) + AT_SECOND_CHUNK.format(order=str(self._order(name))),
        )

    def signal_in_mid_stream(self, name: str, number: signal.Signals) -> None:
        """Signal the peer between two chunks of a block; returns when that is done."""
        incoming = self._order(name).with_suffix(".incoming")
        incoming.write_text(str(int(number)))
        incoming.replace(self._order(name))
        _until(lambda: not self._order(name).exists(), f"{name} sends a block of several chunks")

    def kill(self, name: str, *, in_mid_stream: bool = False) -> None:
        """SIGKILL, and check that what was on the disk before it still is."""
        reply, saved = self[name].status(), self.saved_step(name)
        if in_mid_stream:
            self.signal_in_mid_stream(name, signal.SIGKILL)
        else:
            self[name].signal(signal.SIGKILL)
        self._expect(self[name].result().code == -signal.SIGKILL, f"{name} ended before it was killed")
        after = self.saved_step(name)
        self._expect(after >= saved, f"{name} had saved step {saved} and was left with step {after}")
        # The save of a phase ends at the latest when that of the next one begins.
        whole = (reply.progress.step // INNER_STEPS - 1) * INNER_STEPS
        self._expect(after >= whole, f"{name} took the steps before {whole} and was left with step {after}")

    def comes_back(self, name: str, *options: str) -> None:
        """Start a killed or stopped peer; it must go on where its checkpoint is."""
        saved = self.saved_step(name)
        self.start(name, *options)
        resumed = int(self[name].until_log(r"continuing at step (\d+)\n")[1])
        self._expect(resumed == saved, f"{name} had saved step {saved} and went on at step {resumed}")
        reply = self[name].until(lambda reply: reply.peer_id)
        self._expect(reply.peer_id == self._ids[name], f"{name} came back as somebody else")

    def stop(self, *names: str) -> None:
        """SIGTERM, to all at once; each must save its last step, end well, and soon."""
        begun = time.monotonic()
        for name in names:
            self[name].signal(signal.SIGTERM)
        for name in names:
            ended = self[name].result()
            took = time.monotonic() - begun
            self._expect(ended.code == 0, f"{name} ended with {ended.code}")
            self._expect(took < PROMPT_S, f"{name} took {took:.1f} s to stop")
            bug = ended.err.partition("Traceback (most recent call last)")[2]
            self._expect(not bug, f"{name} wrote a traceback:{bug}")
            said, saved = (
                re.search(r"stopped at step (\d+), which is saved", ended.err),
                self.saved_step(name),
            )
            self._expect(
                said is not None and int(said[1]) == saved, f"{name} saved step {saved}, and said {said}"
            )

    # -- what they say --------------------------------------------------------------------------------------

    def until_together(self, names: str = "", patience: float = PATIENCE_S) -> float:
        """Wait until each of ``names`` mixes whole blocks with all the others, within one step of each other.

        Returns when that began, on the monotonic clock.
        """
        names = names or self.names
        deadline, began, marks = time.monotonic() + patience, 0.0, dict[str, pb.StatusReply]()
        replies: dict[str, pb.StatusReply] = {}
        while time.monotonic() < deadline:
            now = time.monotonic()
            try:
                replies = {name: self[name].status() for name in names}
            except NoDaemonError:  # it is only just being started
                marks = {}
                time.sleep(POLL_S)
                continue
            if not all(_mixes_with(reply, len(names) - 1) for reply in replies.values()):
                marks = {}
            elif not marks or any(_incomplete(replies[n]) != _incomplete(marks[n]) for n in names):
                began, marks = now, replies
            elif all(_taken(replies[n]) >= _taken(marks[n]) + WHOLE_STEPS for n in names):
                return began
            time.sleep(POLL_S)
        logs = "\n".join(f"{name}:\n{self[name].log[-2000:]}" for name in names)
        raise AssertionError(f"{names} are not together within {patience:.0f} s\n{replies}\n{logs}")

    def go_on(self, names: str, steps: int) -> None:
        """Wait until each of ``names`` has taken so many more steps."""
        goals = {name: _taken(self[name].status()) + steps for name in names}
        for name, goal in goals.items():
            self[name].until(lambda reply, goal=goal: _taken(reply) >= goal, PATIENCE_S)  # type: ignore[misc]

    def noticed(self, names: Iterable[str], pattern: str, since: float) -> float:
        """Seconds from ``since`` until the last of ``names`` said something like ``pattern`` (in status or log)."""
        return max(self._noticed(name, pattern, since) for name in names)

    def _noticed(self, name: str, pattern: str, since: float) -> float:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            now, notices = time.monotonic(), self[name].status().notices
            times = [now - n.age_s for n in notices if re.search(pattern, n.text)]
            if after := [at for at in times if at >= since]:
                return min(after) - since
            time.sleep(POLL_S)
        raise AssertionError(f"{name} did not say {pattern!r}:\n{self[name].log}")

    def until_state(self, names: Iterable[str], other: str, state: str, since: float) -> float:
        """Seconds from ``since`` until the last of ``names`` holds ``other`` for alive, suspect or gone."""
        for name in names:
            self[name].until(
                lambda reply: any(n.name == other and n.state == state for n in reply.neighbours), PATIENCE_S
            )
        return time.monotonic() - since

    def saved_step(self, name: str) -> int:
        """Of the checkpoint on the disk, whose hashes are checked; 0 without one."""
        try:
            with open_checkpoint(self.directory(name)) as checkpoint:
                return checkpoint.run.step if checkpoint else 0
        except StateError as error:
            self.lost.append(f"{name}: {error}")
            return 0

    def until_saved(self, name: str, *, beyond: int) -> None:
        """Wait until the checkpoint on the disk is of a later step."""
        _until(lambda: self.saved_step(name) > beyond, f"{name} saves a step beyond {beyond}")

    # -- the end --------------------------------------------------------------------------------------------

    def finish(self) -> list[str]:
        """Train on for a round, stop everybody, and look at what they have: what was lost, a line each."""
        self.go_on(self.names, 4 * INNER_STEPS)
        self.until_together()
        for name in self.names:
            self._look_at(name, self[name].status())
        self.stop(*self.names)
        base = TrainableModel.load(self._fleet.model, torch.device("cpu"), torch.float32)
        held = {name: self._held(name, len(base.plan)) for name in self.names}
        for one, other in combinations(self.names, 2):
            # Copies as of different phases are no closer than training takes them.
            for index, phase in held[one].keys() & held[other].keys():
                ours, theirs = held[one][index, phase], held[other][index, phase]
                apart, way = float((ours - theirs).norm()), float((ours - base.block(index)).norm())
                self._expect(
                    apart < APART * way,
                    f"{one} and {other} are {apart:.2g} apart in block {index} after {way:.2g}",
                )
        return self.lost

    def _look_at(self, name: str, reply: pb.StatusReply) -> None:
        said = [notice.text for notice in reply.notices]
        for wrong in ("not finite", "damaged", "the link is closed"):
            self._expect(
                not any(wrong in text for text in said), f"{name} was told of something {wrong}: {said}"
            )
        self._expect(reply.activity in ("training", "evaluating"), f"{name} is {reply.activity}")

    def _held(self, name: str, blocks: int) -> dict[tuple[int, int], torch.Tensor]:
        """(block, its last phase) -> values, of the inactive blocks of the checkpoint, whose hashes were checked."""
        with open_checkpoint(self.directory(name)) as checkpoint:
            if checkpoint is None:
                self.lost.append(f"{name} has no checkpoint")
                return {}
            self._expect_all_phases(name, checkpoint, blocks)
            held = {
                (block, phase): checkpoint.block(block).float() for block, phase in checkpoint.phases.items()
            }
            active = checkpoint.active()
            tensors = [*held.values(), *(active.tensors.values() if active is not None else ())]
            finite = all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
        self._expect(finite, f"{name} saved values that are not finite")
        return held

    def _expect_all_phases(self, name: str, checkpoint: Checkpoint, blocks: int) -> None:
        spec = parse_spec(checkpoint.run.spec)
        schedule = Schedule(blocks, spec.inner_steps, spec.order, spec.seed)
        completed = checkpoint.run.step // spec.inner_steps * spec.inner_steps
        latest = schedule.latest_phases(completed)
        held = {block: checkpoint.phases.get(block, -1) for block in latest}
        self._expect(held == latest, f"{name} has phases {held} of {latest}")

    def _expect(self, met: bool, otherwise: str) -> None:
        if not met:
            self.lost.append(otherwise)

    def _order(self, name: str) -> Path:
        return self._fleet.folder / f"{name}.order"


MakeSwarm = Callable[..., Swarm]
"""``make(names, pace=..., model=...)``, of `Swarm` and `fleet`; in tests/chaos/conftest.py."""


def _mixes_with(reply: pb.StatusReply, others: int) -> bool:
    alive = [n for n in reply.neighbours if n.state == "alive"]
    return len(alive) == others and all(
        n.mixing_weight == pytest.approx(1 / (others + 1)) and abs(n.step_lag) <= 1 for n in alive
    )


def _taken(reply: pb.StatusReply) -> int:
    return reply.training.steps_taken


def _incomplete(reply: pb.StatusReply) -> int:
    return reply.training.steps_incomplete


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE_S:.0f} s: {what}")
        time.sleep(POLL_S)
