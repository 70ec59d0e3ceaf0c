"""CPU time of `decad status`, as a whole process, against a daemon that trains a tiny model."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.tiny import make_tiny_llama

from decad.cli.client import get_status
from decad.errors import NoDaemonError

RUNS = 7
GOAL_S = 0.4
DECAD = [sys.executable, "-m", "decad.cli.main"]


def main() -> None:
    """Print the median of some runs beside that of an interpreter that does nothing."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = make_tiny_llama(root / "model")
        (root / "text.txt").write_text("All work and no play makes a dull corpus. " * 500)
        arguments = [
            "--model",
            str(model),
            "--data",
            str(root / "text.txt"),
            "--state-dir",
            str(root / "state"),
        ]
        daemon = subprocess.Popen(
            [*DECAD, "start", *arguments, "--no-mdns", "--seq-len", "64", "--threads", "1"],
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_until_up(root / "state", daemon)
            nothing = _cpu([sys.executable, "-c", "pass"])
            status = _cpu([*DECAD, "status", "--state-dir", str(root / "state")])
        finally:
            daemon.terminate()
            daemon.wait(30)
    print(f"decad status: {status:.3f} s of CPU (goal: under {GOAL_S}); python -c pass: {nothing:.3f} s")


def _wait_until_up(state_dir: Path, daemon: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and daemon.poll() is None:
        try:
            get_status(state_dir)
        except NoDaemonError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit("bench_status: the daemon did not come up")


def _cpu(command: list[str]) -> float:
    times = []
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return statistics.median(times)


if __name__ == "__main__":
    main()
