"""kill -9 at any instant: a peer alone that is started again ends bit for bit where an uninterrupted one does.

DECAD_TEST_KILLS=200 asks for more kills than the 20 of every run. Each test prints its points when it fails.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.daemon import Daemon, Fleet, fleet
from support.nursery import Nursery
from support.saved import Saved, assert_same, digest, saved

from decad.cli.client import save
from decad.state.checkpoint import open_checkpoint

KILLS = int(os.environ.get("DECAD_TEST_KILLS", "20"))
STEPS = 62
"""Fifteen phases of four steps, a checkpoint after each, and half a phase more."""
END = 50
"""Twelve phases and a half; then three blocks are mixed alone, in phases of four steps. Ends at step 62."""
INNER_STEPS = 4
PHASES_OF_OPERATIONS = 4
"""A kill in a file operation comes within so many checkpoints of the start."""

pytestmark = pytest.mark.timeout(60 + 6 * KILLS)

DISK = """
import atexit, os, pytest, signal
from pathlib import Path
from support.disk import Disk
class Killing(Disk):
    def fail(self):
        os.kill(os.getpid(), signal.SIGKILL)
disk = Killing(Path({state!r}), {at})
disk.install(pytest.MonkeyPatch())
atexit.register(lambda: Path({count!r}).write_text(str(disk.count)))
"""

RECORD = """
import json
from decad.core.section import Section
from decad.daemon.phase import ActiveBlock
from decad.model.trainable import TrainableModel
from support.saved import digest
record = open({record!r}, "a", buffering=1)
def note(kind, block, step, *tensors):
    record.write(json.dumps([kind, block, step, digest(tensors)]) + chr(10))
finish_step, deactivate, set_block = ActiveBlock.finish_step, TrainableModel.deactivate, TrainableModel.set_block
def finished(self, mixer, step):
    finish_step(self, mixer, step)
    sender = self.coding.encoder
    public = [] if sender.full_only else [sender.public[Section.BLOCK]]
    note("active", self.block.index, step, self.theta, self.state.m, self.state.v, *public)
def deactivated(self, *, seed, step):
    block = self._active.block.index
    deactivate(self, seed=seed, step=step)
    note("block", block, step, self.block(block))
def fetched(self, index, flat):
    set_block(self, index, flat)
    note("block", index, -1, self.block(index))
ActiveBlock.finish_step, TrainableModel.deactivate, TrainableModel.set_block = finished, deactivated, fetched
"""


class Reference(NamedTuple):
    """An uninterrupted run."""

    saved: Saved
    seconds: float
    operations: int
    """On files, in its whole life."""


class Life:
    """One run after the other, each killed and started again until it is done."""

    def __init__(self, peers: Fleet, options: tuple[str, ...], expected: Reference) -> None:
        self.peers, self.options, self.expected = peers, options, expected
        self.killed: list[str] = []
        self._runs = 0

    def start(self, at: int = -1) -> Daemon:
        """Start the peer where the last one was killed. ``at``: the file operation in which it kills itself."""
        return start(self.peers, f"run-{self._runs}", self.options, at)

    def ended(self, daemon: Daemon, how: str) -> None:
        """Note a kill; or, when it was too late for one, compare the run that is done, and begin another."""
        code = daemon.result().code
        if code == -signal.SIGKILL:
            self.killed.append(how)
            return
        assert code == 0, daemon.log
        assert_same(saved(daemon.state_dir), self.expected.saved)
        self._runs += 1


def start(peers: Fleet, name: str, options: tuple[str, ...], at: int = -1) -> Daemon:
    state, count = str(peers.folder / name), str(peers.folder / f"{name}-operations")
    always = ("--name", "a", "--data", str(peers.texts / "a.txt"), "--steps", str(STEPS), "--lr", "1e-3")
    return peers.start(name, *always, *options, before=DISK.format(state=state, at=at, count=count))


@pytest.fixture(
    scope="module",
    params=[("float32", "fp32", "0", "constant"), ("bfloat16", "bf16-delta", "2", f"linear:{END}")],
    ids=["fp32", "bf16 weights, changes, adapters and settling"],
)
def options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    dtype, encoding, adapters, schedule = request.param
    return (
        *("--dtype", dtype, "--encoding", encoding, "--adapters", adapters),
        *("--schedule", schedule, "--settle", "4"),
    )


@pytest.fixture(scope="module")
def uninterrupted(
    nursery: Nursery,
    tmp_path_factory: pytest.TempPathFactory,
    tiny: Path,
    texts: Path,
    options: tuple[str, ...],
) -> Iterator[Reference]:
    with fleet(nursery, tmp_path_factory.mktemp("whole"), tiny, texts) as peers:
        daemon = start(peers, "whole", options)
        daemon.until_log("starting\n")
        begun = time.monotonic()
        assert daemon.result().code == 0, daemon.log
        seconds = time.monotonic() - begun
        operations = int((peers.folder / "whole-operations").read_text())
        yield Reference(saved(daemon.state_dir), seconds, operations)


def test_killed_at_any_time(peers: Fleet, options: tuple[str, ...], uninterrupted: Reference) -> None:
    life, chance = Life(peers, options, uninterrupted), random.Random(f"time {options}")
    while len(life.killed) < KILLS // 4:
        daemon, after = life.start(), chance.uniform(0, uninterrupted.seconds)
        ends = time.monotonic() + after
        while time.monotonic() < ends and daemon.poll() is None:
            time.sleep(0.002)
        daemon.signal(signal.SIGKILL)
        life.ended(daemon, f"after {after:.3f} s")
    finished = life.start()
    assert finished.result().code == 0, (life.killed, finished.log)
    assert_same(saved(finished.state_dir), uninterrupted.saved)


def test_killed_in_any_file_operation(
    peers: Fleet, options: tuple[str, ...], uninterrupted: Reference
) -> None:
    life, chance = Life(peers, options, uninterrupted), random.Random(f"operation {options}")
    few = uninterrupted.operations * INNER_STEPS * PHASES_OF_OPERATIONS // STEPS
    while len(life.killed) < KILLS // 4:
        at = chance.randrange(few)
        life.ended(life.start(at), f"in operation {at}")
    finished = life.start()
    assert finished.result().code == 0, (life.killed, finished.log)
    assert_same(saved(finished.state_dir), uninterrupted.saved)


def test_among_living_neighbours_the_state_on_disk_is_that_of_a_completed_step(
    peers: Fleet, options: tuple[str, ...]
) -> None:
    record = peers.folder / "record"
    waiting = (*options, "--schedule", "constant", "--min-peers", "1", "--lr", "1e-3")
    a = peers.start("a", *waiting)
    b = peers.start("b", *waiting, "--peers", a.address, before=RECORD.format(record=str(record)))
    chance = random.Random(f"neighbours {options}")
    for asked in (True, False):
        b.until_step(chance.randrange(10, 30))
        if asked:  # within a phase, with great probability; else the last phase's end is what there is
            save(b.state_dir)
        b.signal(signal.SIGKILL)
        assert b.result().code == -signal.SIGKILL
        was = {tuple(json.loads(line)) for line in record.read_text().splitlines()}
        with open_checkpoint(b.state_dir) as checkpoint:
            assert checkpoint is not None
            step, active = checkpoint.run.step, checkpoint.active()
            if step % INNER_STEPS == 0:
                assert active is None
            else:  # one that was outrun writes what it fetches as it comes, between two phases of its own
                assert active is not None or "joining at step" in b.log
            if active is not None:
                names = [name for name in ("master", "m", "v", "public") if name in active.tensors]
                held = digest(active.tensors[name] for name in names)
                assert ("active", active.block, step - 1, held) in was
            blocks = {(block, held) for kind, block, _, held in was if kind == "block"}
            assert checkpoint.phases
            assert {(i, digest([checkpoint.block(i).float()])) for i in checkpoint.phases} <= blocks
        b = peers.start("b", *waiting, "--peers", a.address, before=RECORD.format(record=str(record)))
        b.until_step(a.status().progress.step + 2)
