"""Three daemons on loopback: what they say of each other, and what comes of their training."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from support.daemon import PATIENCE_S, POLL_S, Daemon, Fleet
from support.swarm import PACED

from decad.membership.agreement import parse_spec
from decad.model.trainable import TrainableModel
from decad.state.checkpoint import open_checkpoint
from decad.state.weights import TrainedBlocks

pytestmark = pytest.mark.timeout(120)


def _weights(daemon: Daemon) -> torch.Tensor:
    """All trained blocks of its checkpoint, laid end to end: fp32 [parameters]."""
    with open_checkpoint(daemon.state_dir) as checkpoint:
        assert checkpoint is not None
        blocks = TrainedBlocks(checkpoint)
        return torch.cat([blocks[index] for index in blocks])


def _base(model: Path) -> torch.Tensor:
    loaded = TrainableModel.load(model, torch.device("cpu"), torch.float32)
    return torch.cat([loaded.block(block.index) for block in loaded.plan.blocks])


def test_three_peers_end_at_one_model(peers: Fleet, tiny: Path) -> None:
    # Of half-steps of milliseconds a busy machine makes one twice as long as another, and nobody waits for that peer.
    a, b, c = peers.start_three("--steps", "60", "--lr", "1e-3", before=PACED.format(pace=0.1))
    assert [daemon.result().code for daemon in (a, b, c)] == [0, 0, 0]
    assert all("finished at step 60, which is saved" in daemon.log for daemon in (a, b, c))
    base, (wa, wb, wc) = _base(tiny), map(_weights, (a, b, c))
    moved = (wa - base).norm()
    assert moved > 0
    # On three texts this different they would be as far from each other as from the base model.
    assert (wb - wa).norm() < 0.02 * moved
    assert (wc - wa).norm() < 0.02 * moved


def test_a_stopped_peer_goes_on_where_it_stopped(peers: Fleet) -> None:
    a = peers.start("a")
    b = peers.start("b", "--peers", a.address)
    b.until_step(10)
    stopped = peers.run("stop", "--state-dir", str(b.state_dir))
    assert (stopped.code, stopped.out) == (0, f"The daemon (process {b.pid}) has stopped.\n")
    assert b.result().code == 0
    step = int(re.search(r"stopped at step (\d+), which is saved", b.log)[1])  # type: ignore[index]  # or it fails
    a.until_log(r"b \(\w{8}\) is gone: it said goodbye: it was stopped")
    going_on = a.status().progress.step

    b = peers.start("b", "--peers", a.address)
    b.until_log(f"continuing at step {step}\n")
    a.until(lambda reply: reply.neighbours[0].mixing_weight == 0.5)
    assert b.status().progress.step > going_on
    for daemon in (a, b):
        daemon.signal(signal.SIGTERM)
    assert [daemon.result().code for daemon in (a, b)] == [0, 0]


def test_status_shows_the_run_and_every_neighbour(trio: Fleet) -> None:
    b = trio["b"]
    # The rates are over ten seconds, so they are of two digits soon.
    b.until(lambda r: len(r.neighbours) == 2 and all(n.sent_mb_per_s > 0.01 for n in r.neighbours))
    b.until(lambda r: r.training.held_out_step > 0)
    shown = trio.run("status", "--state-dir", str(b.state_dir))
    assert shown.code == 0
    lines = shown.out.splitlines()
    rows = {line[:11].strip(): line[11:] for line in lines[: lines.index("")]}
    assert re.fullmatch(rf"b \([0-9a-f]{{8}}\), process {b.pid}, up \d+ s", rows["peer"])
    assert re.fullmatch(r"trio \([0-9a-f]{8}\)", rows["run"])
    assert rows["listens on"] == f"{b.address}; mDNS off"
    assert rows["links"] == "no secret, open to programs on this machine alone"
    assert rows["doing"].startswith(("training", "evaluating"))
    assert int(rows["step"]) > 0
    assert re.fullmatch(r"round \d+, block \S+ \(3 blocks\), inner step [0-3] of 4", rows["place"])
    assert re.fullmatch(
        r"\d\.\d{4} training, held-out \d\.\d{4} at step \d+ \(first 5\.\d{4}\)", rows["loss"]
    )
    assert re.fullmatch(
        r"\d+ tokens/s, \d\.\d\d s a step \(\d\.\d\d compute, \d\.\d\d exchange\)", rows["speed"]
    )
    assert re.fullmatch(r"[\d.]+ MiB", rows["memory"])
    assert re.fullmatch(r"(sent|; received)( [\d.]+ [KM]iB \([\d.]+ % overhead\).*)+", rows["traffic"])
    assert re.fullmatch(
        r"\d+ taken, \d+ with somebody missing, \d+ skipped: \d+ % of the run's", rows["steps"]
    )
    head, *table = lines[lines.index("") + 1 :][:3]
    assert head.split() == [
        *("neighbour", "address", "found", "state", "weight", "lag"),
        *("rtt", "ms", "out", "MB/s", "in", "MB/s", "share", "apart", "clipped", "seen"),
    ]
    found = {line.split()[0]: re.split(r" {2,}", line) for line in table}
    assert found["a"][1:5] == [trio["a"].address, "peers", "alive", "0.333"]
    assert found["c"][1:5] == [trio["c"].address, "exchange", "alive", "0.333"]

    only = trio.run("neighbors", "--state-dir", str(b.state_dir))
    assert only.out.splitlines()[0].split() == head.split()


def test_a_peer_that_knows_one_address_meets_everybody(trio: Fleet) -> None:
    c = trio["c"]
    reply = c.until(lambda r: len(r.neighbours) == 2)
    ways = {n.name: n.found for n in reply.neighbours}
    assert ways == {"a": "exchange", "b": "peers"}


def test_json_has_every_field(trio: Fleet) -> None:
    a = trio["a"]
    a.until(
        lambda r: (
            len(r.neighbours) == 2
            and all(n.round_trip_ms > 0 and n.relative_distance > 0 for n in r.neighbours)
        )
    )
    shown = trio.run("status", "--json", "--state-dir", str(a.state_dir))
    status = json.loads(shown.out)
    assert status["run"] == "trio"
    assert status["progress"]["step"] > 0
    assert status["progress"].keys() >= {"round", "block", "inner_step", "percent", "eta_s"}
    assert status["training"].keys() >= {"loss", "held_out_loss", "tokens_per_s", "memory_bytes"}
    assert "waiting_for" in status
    for neighbour in status["neighbours"]:
        assert neighbour["state"] == "alive"
        assert neighbour["mixing_weight"] == pytest.approx(1 / 3)
        assert abs(neighbour["step_lag"]) <= 20  # beacons come at most every 50 ms, steps faster
        assert 0 < neighbour["round_trip_ms"] < 2000
        assert neighbour["sent_mb_per_s"] > 0
        assert neighbour["received_mb_per_s"] > 0
        assert 0 < neighbour["relative_distance"] < 0.1
        assert 0 <= neighbour["last_seen_s"] < 5
        assert neighbour.keys() >= {"peer_id", "address", "found"}
    listed = trio.run("neighbours", "--json", "--state-dir", str(a.state_dir))
    assert {n["name"] for n in json.loads(listed.out)} == {"b", "c"}


def test_watch_goes_on_until_interrupted(trio: Fleet) -> None:
    watch = trio.launch("status", "--watch", "--json", "--state-dir", str(trio["a"].state_dir))
    deadline = time.monotonic() + PATIENCE_S
    while watch.out.count('"version"') < 2 and time.monotonic() < deadline:
        time.sleep(POLL_S)
    watch.signal(signal.SIGINT)
    ended = watch.result()
    assert (ended.code, ended.err.strip()) == (130, "")
    assert ended.out.count('"version"') >= 2


def test_a_late_joiner_with_peers_alone_takes_the_rest_from_its_neighbours(
    peers: Fleet, tmp_path: Path
) -> None:
    a = peers.start("a", "--run", "others", "--lr", "1e-3", "--order", "shuffled", "--seed", "7")
    a.until_step(30)
    here = tmp_path / "late"
    here.mkdir()
    (here / "decad.toml").write_text(
        f'model = "{peers.model}"\ndata = "{peers.texts}"\nstate_dir = "state"\nname = "late"\n'
        "mdns = false\nseq_len = 32\nbatch_size = 2\neval_batches = 1\nthreads = 1\n",
        encoding="utf-8",
    )
    late = peers.start_bare(here / "state", "start", "--peers", a.address, cwd=here)
    reply = late.until(lambda r: r.neighbours and r.neighbours[0].mixing_weight == 0.5)
    assert (reply.run, reply.fingerprint) == ("others", a.status().fingerprint)
    adopted = late.until_log(r"took the run's settings from a peer: (.*)")[1]
    assert adopted == "inner_steps = 4, lr = 0.001, order = shuffled, run = others, seed = 7"
    late.until_log(r"joining at step \d+: fetching 3 blocks from a \(\w{8}\) \(0 of \d+ MB\)\n")
    late.signal(signal.SIGTERM)
    assert late.result().code == 0
    with open_checkpoint(late.state_dir) as checkpoint:
        assert checkpoint is not None
        assert checkpoint.run.step > 30
        assert parse_spec(checkpoint.run.spec).run == "others"
