"""`decad.api.run` in a script: one after another, and stopped by a signal that the script had a use for itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60

PREPARED = """
import os, signal
from pathlib import Path

import torch
from torch import nn

from decad.api import Finished, Peer, PeerConfig, RunSpec, StepTaken, run

def tell(event):
    if isinstance(event, StepTaken) and event.step == TERMINATED:
        os.kill(os.getpid(), signal.SIGTERM)
    if isinstance(event, Finished):
        print(event.stopped, event.step)

def peer(steps):
    torch.manual_seed(0)
    return Peer(
        RunSpec(inner_steps=2), PeerConfig(state_dir=Path("state"), steps=steps, mdns=False),
        module=nn.Linear(2, 1), loss=lambda module, batch: module(batch).square().mean(),
        data=list(torch.ones(8, 2)), on_event=tell,
    )
"""


def output(program: str, folder: Path, *, terminated: int = -1) -> list[str]:
    """What ``program`` prints after `PREPARED`; ``terminated``: the step at which it gets SIGTERM."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"TERMINATED = {terminated}\n{PREPARED}\n{program}"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.timeout(PATIENCE_S + 30)
def test_one_run_after_another(tmp_path: Path) -> None:
    assert output("run(peer(3)); run(peer(5))", tmp_path) == ["False 3", "False 5"]


@pytest.mark.timeout(PATIENCE_S + 30)
def test_in_a_thread(tmp_path: Path) -> None:
    program = "import threading; t = threading.Thread(target=run, args=(peer(3),)); t.start(); t.join()"
    assert output(program, tmp_path) == ["False 3"]


@pytest.mark.timeout(PATIENCE_S + 30)
def test_a_signal_stops_it_and_the_next_is_the_scripts_own(tmp_path: Path) -> None:
    program = """
signal.signal(signal.SIGTERM, lambda number, frame: print("mine"))
run(peer(0))
os.kill(os.getpid(), signal.SIGTERM)
"""
    stopped, own = output(program, tmp_path, terminated=4)
    assert stopped.startswith("True")
    assert own == "mine"


@pytest.mark.timeout(PATIENCE_S + 30)
def test_torchs_threads_are_the_scripts_again(tmp_path: Path) -> None:
    program = "torch.set_num_threads(3); run(peer(2)); print(torch.get_num_threads())"
    assert output(program, tmp_path)[-1] == "3"
