"""All faults, and one table of what came of them: `make chaos`.

    python tests/chaos/run.py [--json FILE] [--injections N]

Exits with 1 if anything was lost or anybody did not recover. Whatever else is tried many times in other suites
(kill points, simulated networks) is run here too, each as one row.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from support.fault_table import Row, render  # noqa: E402  # after sys.path


class Elsewhere(NamedTuple):
    """Faults that another suite tries many times. What fails there is printed on a line that begins with FAILED."""

    fault: str
    program: str
    """Below the repository; left out where it does not exist."""
    command: tuple[str, ...]
    """For Python."""
    injected: int
    env: dict[str, str]


KILLS, SEEDS = 200, 500
ELSEWHERE = (
    Elsewhere(
        "SIGKILL of a peer alone, anywhere in a step or a save",
        (kills := "tests/integration/test_killed_anywhere.py"),
        ("-m", "pytest", "-q", kills),
        KILLS,
        {"DECAD_TEST_KILLS": str(KILLS)},
    ),
    Elsewhere(
        "Schedules of faults on simulated networks",
        (simulation := "tests/simulation/chaos.py"),
        (simulation, str(SEEDS)),
        SEEDS,
        {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    ),
)


class Collector:
    """Gathers the rows of the tests that pytest runs."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed[report.nodeid] = report.longreprtext.strip().splitlines()[-1]
        if report.when != "teardown":
            return
        for name, value in report.user_properties:
            if name == "fault":
                row = Row.from_dict(value)  # type: ignore[arg-type]  # what conftest.row put there
                if report.nodeid in self._failed and not row.lost:
                    row.lost.append(f"not recovered: {self._failed[report.nodeid]}")
                self.rows.append(row)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--injections", type=int, default=3, help="how often each fault is injected")
    parser.add_argument("-k", default="", help="only tests that match, as in pytest")
    chosen = parser.parse_args()
    os.environ["DECAD_CHAOS_INJECTIONS"] = str(chosen.injections)
    collector = Collector()
    code = pytest.main([str(ROOT / "tests/chaos"), "-q", "-k", chosen.k], plugins=[collector])
    rows = collector.rows + [
        _elsewhere(it) for it in ELSEWHERE if not chosen.k and (ROOT / it.program).exists()
    ]
    if chosen.json:
        chosen.json.write_text(json.dumps([row.as_dict() for row in rows], indent=2) + "\n")
    print(f"\n{render(rows)}\n")
    return int(code != 0 or any(row.lost for row in rows))


def _elsewhere(it: Elsewhere) -> Row:
    command = [sys.executable, *it.command]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | it.env, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    row = Row(it.fault, it.injected)
    if done.returncode:
        row.lost += re.findall(r"^FAILED .*", done.stdout, re.MULTILINE) or [
            f"it ended with {done.returncode}"
        ]
    return row


if __name__ == "__main__":
    sys.exit(main())
