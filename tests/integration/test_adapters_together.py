"""Daemons that train low-rank adapters beside the blocks: joining, exporting, and what does not fit together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.daemon import Fleet
from support.swarm import PACED

from decad.state.checkpoint import open_checkpoint
from decad.state.weights import TrainedBlocks

pytestmark = pytest.mark.timeout(120)

ADAPTERS = ("--adapters", "2", "--adapter-lr", "1e-2", "--lr", "1e-3")


def test_a_joiner_gets_them_and_all_end_alike(peers: Fleet, tmp_path: Path) -> None:
    paced = PACED.format(pace=0.05)
    a = peers.start("a", *ADAPTERS, "--steps", "120", "--min-peers", "1", before=paced)
    b = peers.start("b", *ADAPTERS, "--steps", "120", "--peers", a.address, before=paced)
    a.until_step(30)
    c = peers.start("c", *ADAPTERS, "--steps", "120", "--peers", a.address, before=paced)
    c.until(lambda r: sum(n.mixing_weight > 0 for n in r.neighbours) == 2)
    assert "fetching 4 blocks" in c.log  # three, and the adapters
    traffic = c.status().traffic
    assert traffic.sent.adapters > 0
    assert traffic.received.adapters > 0
    assert [daemon.result().code for daemon in (a, b, c)] == [0, 0, 0]
    seen = []
    for daemon in (a, b, c):
        out, state = tmp_path / f"{daemon.state_dir.name}-tuned", str(daemon.state_dir)
        done = peers.run("export", str(out), "--state-dir", state, "--model", str(peers.model))
        assert (done.code, done.err) == (0, "")
        assert not [path for path in out.iterdir() if "adapter" in path.name]
        data = ("--data", str(peers.texts / "a.txt"), "--seq-len", "32")
        before = peers.run(
            "eval", "--model", str(peers.model), *data, "--name", "x", "--state-dir", state, "--json"
        )
        exported = peers.run("eval", "--model", str(out), *data, "--name", "x", "--json")
        assert (before.code, exported.code) == (0, 0), before.err + exported.err
        seen.append(json.loads(exported.out)["loss"])
        assert json.loads(before.out)["loss"] == pytest.approx(seen[-1], abs=1e-4)
    base = json.loads(peers.run("eval", "--model", str(peers.model), *data, "--name", "x", "--json").out)
    assert max(seen) - min(seen) < 0.05
    assert max(seen) < base["loss"] - 0.3


def test_adapters_alone_are_a_run_too(peers: Fleet, tmp_path: Path) -> None:
    run = ("--blocks", "none", "--adapters", "2", "--schedule", "linear:120", "--overlay", "edges:a-b,b-c")
    paced = PACED.format(pace=0.15)
    a = peers.start("a", *run, "--min-peers", "1", before=paced)
    b = peers.start("b", *run, "--min-peers", "1", "--peers", a.address, before=paced)
    a.until_step(20)
    c = peers.start("c", *run, "--peers", b.address, before=paced)
    c.until(lambda r: r.training.steps_taken)
    assert "fetching 1 block" in c.log
    sent = a.status().traffic.sent
    assert sent.adapters > 0
    assert sent.block == sent.second_moment == 0
    assert [daemon.result().code for daemon in (a, b, c)] == [0, 0, 0]
    values = []
    for daemon in (a, b, c):
        with open_checkpoint(daemon.state_dir) as checkpoint:
            assert checkpoint is not None
            assert checkpoint.run.step == 120 + 8
            values.append(TrainedBlocks(checkpoint)[1])
    assert all((other - values[0]).norm() < 1e-3 * values[0].norm() for other in values[1:])
    again = peers.start("a", *run).result()
    assert again.code == 0
    out = tmp_path / "adapters"
    done = peers.run("export", str(out), "--adapter", "--state-dir", "a", "--model", str(peers.model))
    assert done.code == 0, done.err
    assert "the adapters of step 128" in done.out
    assert "the neighbours' were within" in done.out
    assert (out / "adapter_model.safetensors").exists()
    data = ("--data", str(peers.texts / "a.txt"), "--seq-len", "32", "--json")
    base, tuned = (
        json.loads(peers.run("eval", "--model", str(peers.model), *data, "--state-dir", "a", *more).out)[
            "loss"
        ]
        for more in (("--base",), ())
    )
    assert tuned < base - 0.1


def test_other_ranks_do_not_train_together(peers: Fleet) -> None:
    a = peers.start("a", *ADAPTERS)
    b = peers.start("b", "--adapters", "4", "--peers", a.address)
    refused = b.result()
    assert refused.code != 0
    assert "adapters" in refused.err
    a.until(lambda r: not r.neighbours or r.neighbours[0].state != "alive")


def test_a_checkpoint_from_before_is_refused_and_kept(peers: Fleet) -> None:
    assert peers.start("a", "--steps", "6").result().code == 0
    again = peers.start("a", *ADAPTERS, "--steps", "12").result()
    assert again.code != 0
    assert "adapters is 2 now and was 0" in again.err
    assert peers.start("a", "--steps", "12").result().code == 0
