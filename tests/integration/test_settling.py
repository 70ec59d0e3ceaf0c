"""At the end of their run daemons mix without training until they have one model, whoever dies or comes meanwhile."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from support.daemon import Daemon, Fleet
from support.swarm import PACED

from decad.state.checkpoint import open_checkpoint
from decad.state.weights import TrainedBlocks

pytestmark = pytest.mark.timeout(120)

END, SETTLE = 40, 12
RUN = (
    *("--schedule", f"linear:{END}", "--settle", str(SETTLE), "--lr", "1e-2", "--adapters", "2"),
    *("--overlay", "edges:a-b,b-c,b-d"),
)
SLOWLY = """
import time
from decad.daemon.phase import ActiveBlock
still_step = ActiveBlock.still_step
def slow(self):
    time.sleep(0.25)
    return still_step(self)
ActiveBlock.still_step = slow
"""


def parameters(daemon: Daemon, step: int = END + 3 * SETTLE) -> torch.Tensor:
    """All that was trained, after ``step`` steps."""
    with open_checkpoint(daemon.state_dir) as checkpoint:
        assert checkpoint is not None
        assert checkpoint.run.step == step
        blocks = TrainedBlocks(checkpoint)
        assert len(blocks) == 3 + 1
        return torch.cat([blocks[index] for index in sorted(blocks)])


def test_one_dies_and_one_comes_in_the_middle(peers: Fleet, tmp_path: Path) -> None:
    a = peers.start("a", *RUN, "--min-peers", "2", before=SLOWLY)
    b = peers.start("b", *RUN, "--min-peers", "2", "--peers", a.address, before=SLOWLY)
    c = peers.start("c", *RUN, "--min-peers", "2", "--peers", b.address, before=SLOWLY)
    c.until(lambda reply: reply.activity == "settling")
    c.signal(signal.SIGKILL)
    d = peers.start("d", *RUN, "--peers", b.address, before=SLOWLY)
    seen = a.until(lambda reply: reply.activity == "settling" and reply.progress.inner_step)
    assert (seen.progress.steps_total, seen.progress.inner_steps) == (END + 3 * SETTLE, SETTLE)
    assert seen.progress.eta_s > 0
    assert [daemon.result().code for daemon in (a, b, d)] == [0, 0, 0]
    b.until_log(r"settled: held-out loss \d\S+, and \d\S+ before")
    one, *others = [parameters(daemon) for daemon in (a, b, d)]
    assert one.abs().max() > 0
    apart = [float((other - one).norm() / one.norm()) for other in others]
    assert max(apart) < 1e-3, d.log
    done = peers.run("export", str(tmp_path / "out"), "--state-dir", "a", "--model", str(peers.model))
    assert (done.code, done.err) == (0, "")
    assert "the neighbours' were within" in done.out
    assert "a model of its own" not in done.out


def test_an_operator_has_it_end_and_all_follow(peers: Fleet) -> None:
    run = ("--settle", str(SETTLE), "--lr", "1e-2", "--overlay", "ring", "--adapters", "2")
    slowly = PACED.format(pace=0.05) + SLOWLY
    a = peers.start("a", *run, "--min-peers", "2", before=slowly)
    a.until(lambda reply: reply.activity == "waiting")
    early = peers.run("settle", "--state-dir", "a")
    assert early.code != 0
    assert "has not begun to train" in early.err
    b = peers.start("b", *run, "--min-peers", "2", "--peers", a.address, before=slowly)
    c = peers.start("c", *run, "--min-peers", "2", "--peers", b.address, before=slowly)
    a.until_step(4)
    told = json.loads(peers.run("settle", "--state-dir", "a", "--json").out)
    assert told["step"] < told["end"]
    assert told["over"] == told["end"] + 3 * SETTLE
    assert told["eta_s"] > 0
    said = peers.run("settle", "--state-dir", "c")
    assert f"All train until step {told['end']}." in said.out
    b.until_step(told["end"] - 3)
    b.signal(signal.SIGKILL)  # it has to know when it returns
    b.result()
    b = peers.start("b", *run, "--peers", f"{a.address},{c.address}", before=slowly)
    assert [daemon.result().code for daemon in (a, b, c)] == [0, 0, 0]
    one, *others = [parameters(daemon, told["over"]) for daemon in (a, b, c)]
    apart = [float((other - one).norm() / one.norm()) for other in others]
    assert max(apart) < 1e-3, b.log
    again = peers.start("a", *run).result()
    assert again.code == 0
    assert f"finished at step {told['over']}" in again.err


def test_a_run_that_never_settles_says_so(peers: Fleet) -> None:
    a = peers.start("a", "--settle", "0", before=PACED.format(pace=0.05))
    a.until_step(2)
    done = peers.run("settle", "--state-dir", "a")
    assert done.code != 0
    assert "--settle 0" in done.err


def test_without_it_an_export_says_how_far_apart_they_are(peers: Fleet, tmp_path: Path) -> None:
    run = ("--steps", "12", "--lr", "2e-2", "--overlay", "edges:a-b,b-c", "--min-peers", "2")
    a = peers.start("a", *run)
    b = peers.start("b", *run, "--peers", a.address)
    c = peers.start("c", *run, "--peers", b.address)
    assert [daemon.result().code for daemon in (a, b, c)] == [0, 0, 0]
    done = peers.run("export", str(tmp_path / "out"), "--state-dir", "b", "--model", str(peers.model))
    assert "each peer exports a model of its own" in done.out
    assert "--settle" in done.out
