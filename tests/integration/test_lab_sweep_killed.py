"""A sweep that is killed takes its workers with it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.daemon import POLL_S
from support.tiny import make_tiny_llama

pytestmark = pytest.mark.timeout(90)

PLAN = """
model = "model"
data = ["a.txt"]
peers = 1
steps = 1000000
eval_units = 4
seq_len = 16
lr = [0.001, 0.002]
seeds = [1]
[[variants]]
name = "long"
"""


def test_workers_of_a_killed_sweep_end(tmp_path: Path) -> None:
    make_tiny_llama(tmp_path / "model", hidden=16)
    (tmp_path / "a.txt").write_text("hello " * 300)
    (tmp_path / "plan.toml").write_text(PLAN)
    command = [
        sys.executable,
        "-m",
        "decad.cli.main",
        "lab",
        "sweep",
        "plan.toml",
        "--into",
        "runs",
        "--jobs",
        "2",
    ]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as sweep:
        workers: list[psutil.Process] = []
        try:
            while len(list(tmp_path.glob("runs/grid/long/*/metrics.jsonl"))) < 2:
                assert sweep.poll() is None
                time.sleep(POLL_S)
            workers = psutil.Process(sweep.pid).children()
            assert len(workers) >= 2
            sweep.send_signal(signal.SIGKILL)
            _, left = psutil.wait_procs(workers, timeout=20)
            assert left == []
        finally:
            sweep.kill()
            for worker in workers:
                if worker.is_running():
                    worker.kill()
