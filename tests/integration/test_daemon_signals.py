"""Stopping a daemon: from outside, at every moment of its life."""

from __future__ import annotations

import os
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


CONTROLLED = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""The terminal on its standard input is the one that ends it."""

SIGNALLED = """
import os, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            print("signalled", flush=True)
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
sys.argv = {argv!r}
from decad.cli.main import main
main()
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
    assert "SIGTERM: stopping; a second SIGINT or SIGTERM exits at once\n" in stopped.log
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


def test_hangups_come_in_numbers_and_all_is_saved(peers: Fleet) -> None:
    daemon = peers.start("a")
    daemon.until_step(4)
    for _ in range(5):  # of the terminal, the shell, the system
        daemon.signal(signal.SIGHUP)
    _ended_well(daemon)
    assert "SIGHUP: the terminal closed: stopping" in daemon.log
    assert re.search(r"stopped at step \d+, which is saved in ", daemon.log)


def test_under_nohup_it_goes_on(peers: Fleet) -> None:
    daemon = peers.start("a", before="import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)")
    step = daemon.until_step(4).progress.step
    daemon.signal(signal.SIGHUP)
    daemon.until_step(step + 20)
    daemon.signal(signal.SIGTERM)
    _ended_well(daemon)


def test_a_terminal_that_closes_ends_it_as_well_as_anything(peers: Fleet) -> None:
    b = peers.start("b")
    b.until_step(1)
    command = [sys.executable, "-m", "decad.cli.main", "start", "--state-dir", str(peers.folder / "s"), *FAST]
    command += ["--model", str(peers.model), "--data", str(peers.texts), "--name", "a", "--peers", b.address]
    terminal, inside = os.openpty()
    plain = {key: value for key, value in environment().items() if key not in ("TMUX", "STY")}
    with subprocess.Popen(
        [sys.executable, "-c", CONTROLLED, *command],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env=plain,
        cwd=peers.folder,
    ) as process:
        try:
            os.close(inside)
            log = ""
            while not re.search(r"step \d+: held-out loss.*step \d+: held-out loss", log, re.DOTALL):
                log += os.read(terminal, 4096).decode()
            os.close(terminal)
            assert process.wait(PROMPT_S) == 0
        finally:
            process.kill()
    assert "when this terminal closes, the daemon saves and stops" in log
    b.until_log(r"a \(\w{8}\) is gone: it said goodbye: it was stopped\n")
    with open_checkpoint(peers.folder / "s") as checkpoint:
        assert checkpoint is not None
        assert checkpoint.run.step > 0


@pytest.mark.parametrize("imported", ["decad.config", "torch", "grpc", "decad.daemon.peer"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_first_seconds_is_a_stop_as_any_other(
    peers: Fleet, imported: str, number: signal.Signals
) -> None:
    """In the command as it is typed: it comes when ``imported`` begins to be imported."""
    command = ["decad", "start", "--state-dir", str(peers.folder / "s"), *FAST]
    command += ["--model", str(peers.model), "--data", str(peers.texts)]
    code = SIGNALLED.format(module=imported, number=int(number), argv=command)
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=PROMPT_S * 3
    )
    assert ended.returncode == 0, ended.stderr
    assert "signalled" in ended.stdout
    assert "Traceback" not in ended.stderr


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
