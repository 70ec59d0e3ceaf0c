"""Stopping a daemon: from outside, at every moment of its life."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.daemon import FAST, Daemon, Fleet
from support.nursery import environment

from decad.state.checkpoint import open_checkpoint
from decad.state.weights import TrainedBlocks

pytestmark = pytest.mark.timeout(60)

PROMPT_S = 10.0
"""The promise: a stopped daemon is gone within this time."""

STUCK_GRADIENT = """
import time
from decad.model.trainable import TrainableModel
gradient = TrainableModel.gradient
calls = 0
def slow(self, *batch):
    global calls
    calls += 1
    if calls == 8:
        print("stuck", flush=True)
        time.sleep(600)
    return gradient(self, *batch)
TrainableModel.gradient = slow
"""
"""The eighth step of the process does not end."""

STUCK_LOADING = """
import time
import decad.model.trainable
def slow(*_):
    print("stuck", flush=True)
    time.sleep(600)
decad.model.trainable.load_module = slow
"""


def _ended_well(daemon: Daemon) -> None:
    begun = time.monotonic()
    assert daemon.result().code == 0
    assert time.monotonic() - begun < PROMPT_S
    assert "Traceback" not in daemon.log


def _until_stuck(daemon: Daemon) -> None:
    deadline = time.monotonic() + PROMPT_S
    while daemon.out != "stuck\n":
        assert time.monotonic() < deadline, daemon.log
        time.sleep(0.05)


def _checkpoint(directory: Path) -> tuple[int, dict[str, int], dict[str, torch.Tensor]]:
    """Step, position in the data, and every tensor."""
    with open_checkpoint(directory) as checkpoint:
        assert checkpoint is not None
        blocks = TrainedBlocks(checkpoint)
        active = checkpoint.active()
        assert active is not None  # within a phase
        tensors = {str(index): blocks[index] for index in blocks} | dict(active.tensors)
        return checkpoint.run.step, dict(checkpoint.run.data), tensors


def test_a_stop_in_the_middle_of_a_step_keeps_the_last_completed_one(peers: Fleet) -> None:
    stopped = peers.start("a", before=STUCK_GRADIENT)
    _until_stuck(stopped)
    stopped.signal(signal.SIGTERM)
    _ended_well(stopped)
    assert re.search(r"SIGTERM: stopping; a second one exits at once\n", stopped.log)
    assert re.search(r"stopped at step 7, which is saved in ", stopped.log)

    whole = peers.start("a", "--state-dir", str(peers.folder / "whole"), "--steps", "7")
    assert whole.result().code == 0
    step, position, tensors = _checkpoint(stopped.state_dir)
    _, whole_position, expected = _checkpoint(peers.folder / "whole")
    assert (step, position) == (7, whole_position)
    assert tensors.keys() == expected.keys()
    assert {"master", "m", "v"} < tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name]), name


def test_a_second_signal_ends_it_at_once(peers: Fleet) -> None:
    # A goodbye that takes for ever.
    slow = "import asyncio\nfrom decad.daemon.network import Network\nNetwork.farewell = lambda *_: asyncio.sleep(600)"
    daemon = peers.start("a", before=slow)
    daemon.until_step(4)
    daemon.signal(signal.SIGINT)
    daemon.until_log("stopped at step")
    daemon.signal(signal.SIGTERM)
    assert daemon.result().code == 128 + signal.SIGTERM


def test_stops_while_it_waits_for_peers(peers: Fleet) -> None:
    daemon = peers.start("a", "--min-peers", "2")
    daemon.until(lambda reply: reply.activity == "waiting")
    daemon.signal(signal.SIGINT)
    _ended_well(daemon)
    assert "stopped before it took a step: there is nothing to save\n" in daemon.log


def test_says_goodbye_when_it_is_stopped_while_it_waits(peers: Fleet) -> None:
    a = peers.start("a", "--min-peers", "2")
    b = peers.start("b", "--min-peers", "2", "--peers", a.address)
    a.until(lambda reply: reply.waiting_for == "neighbours (2 wanted, 1 here)")
    b.signal(signal.SIGTERM)
    a.until_log(r"b \(\w{8}\) is gone: it said goodbye: it was stopped\n")
    _ended_well(b)


def test_answers_and_stops_while_it_loads_the_model(peers: Fleet) -> None:
    daemon = peers.start("a", "--run", "mine", before=STUCK_LOADING)
    _until_stuck(daemon)
    shown = peers.run("status", "--state-dir", str(daemon.state_dir))
    assert shown.code == 0
    assert f"starting: waiting for the model {peers.model} to be loaded\n" in shown.out
    assert re.search(r"^peer +a, process", shown.out)
    stopped = peers.run("stop", "--state-dir", str(daemon.state_dir))
    assert stopped.code == 0
    _ended_well(daemon)
    assert not (daemon.state_dir / "control.sock").exists()


def test_stops_while_modules_are_imported_and_while_it_trains(peers: Fleet) -> None:
    """The command as it is typed, without the fork of the other tests."""
    command = [sys.executable, "-m", "decad.cli.main", "start", "--state-dir", str(peers.folder / "s"), *FAST]
    command += ["--model", str(peers.model), "--data", str(peers.texts)]
    for awaited, number, said in (
        ("starting", signal.SIGINT, ""),
        ("step 12: held-out loss", signal.SIGTERM, "stopped at step"),
    ):
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=environment(), cwd=peers.folder
        ) as process:
            try:
                assert process.stderr is not None
                log = ""
                while awaited not in log:
                    line = process.stderr.readline()
                    assert line, log
                    log += line
                process.send_signal(number)
                log += process.communicate(timeout=PROMPT_S)[1]
            finally:
                process.kill()
        assert process.returncode == 0, log
        assert said in log
        assert "Traceback" not in log
