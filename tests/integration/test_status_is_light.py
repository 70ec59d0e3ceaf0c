"""`decad status` answers at once: no torch, no transformers, little CPU."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest
from support.daemon import Fleet
from support.nursery import environment

pytestmark = pytest.mark.timeout(60)

CODE = """
import sys
from decad.cli.main import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "numpy", "zeroconf", "pydantic", "decad.daemon"} & sys.modules.keys()
    print("heavy:", *sorted(heavy))
"""


@pytest.mark.parametrize("command", ["status", "neighbours"])
def test_status_loads_nothing_heavy(trio: Fleet, command: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", CODE, command, "--state-dir", str(trio["a"].state_dir)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=30,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nheavy:\n")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"decad {command}: {spent:.2f} s of CPU (the goal is 0.4), load {os.getloadavg()[0]:.1f}")
