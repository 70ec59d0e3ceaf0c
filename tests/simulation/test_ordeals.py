"""A fixed few of the seeded schedules of faults; `make chaos-sim` runs thousands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.ordeal import draw, undergo

SEEDS = range(100, 106)
REPEATED = (100, 103)

DIGESTS = """
import logging, sys, tempfile, torch
from pathlib import Path
from support.ordeal import draw, undergo
logging.disable(logging.CRITICAL)
torch.set_num_threads(1)
for seed in sys.argv[1:]:
    with tempfile.TemporaryDirectory() as folder:
        print(undergo(draw(int(seed)), Path(folder)).digest)
"""


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_the_schedule_nothing_is_lost_and_nobody_hangs(tmp_path: Path, seed: int) -> None:
    schedule = draw(seed)
    outcome = undergo(schedule, tmp_path)
    assert not outcome.failure, f"{outcome.failure}\n{schedule}"
    assert outcome.steps > 0
    assert outcome.pairs > 0


def test_a_seed_is_the_same_run_in_another_process_with_other_hashes(tmp_path: Path) -> None:
    mine = []
    for seed in REPEATED:
        folder = tmp_path / str(seed)
        folder.mkdir()
        mine.append(undergo(draw(seed), folder).digest)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    theirs = subprocess.run(
        [sys.executable, "-c", DIGESTS, *map(str, REPEATED)],
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=100,
    )
    assert theirs.stdout.split() == mine
    assert len(set(mine)) == len(mine)
