"""Runs seeded schedules of faults, on both cores: `make chaos-sim SEEDS=2000`, or SEEDS=40:60, or one as SEEDS=47:48.

    python tests/simulation/chaos.py 2000     (tests on PYTHONPATH)

A schedule that fails is printed with the command that replays it. Ends with 1 if any did.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
from support.ordeal import Outcome, draw, undergo


def main(seeds: str) -> int:
    """``seeds``: how many from 0, or FIRST:END."""
    first, _, end = seeds.rpartition(":")
    numbers = range(int(first or 0), int(end))
    faults, steps, peers, pairs, failures, seconds = Counter[str](), 0, 0, 0, 0, 0.0
    with multiprocessing.get_context("spawn").Pool(min(2, os.cpu_count() or 1), _begin) as pool:
        for done, outcome in enumerate(pool.imap_unordered(_undergo, numbers), 1):
            peers += len(outcome.schedule.names)
            steps, pairs, seconds = steps + outcome.steps, pairs + outcome.pairs, seconds + outcome.seconds
            faults += outcome.faults
            if outcome.failure:
                failures += 1
                seed = outcome.schedule.seed
                print(f"\nFAILED {outcome.schedule}\n  {outcome.failure}")
                print(f"  again: make chaos-sim SEEDS={seed}:{seed + 1}", flush=True)
            if done % 100 == 0:
                print(f"{done} of {len(numbers)}, {failures} failed", file=sys.stderr, flush=True)
    listed = ", ".join(f"{kind} {count}" for kind, count in sorted(faults.items()))
    print(
        f"{len(numbers)} seeds, {peers} peers, {seconds / 3600:.1f} virtual hours, {steps} steps, {pairs} edges held "
        f"against each other; faults: {listed}; failures: {failures}"
    )
    return int(failures > 0)


def _begin() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)


def _undergo(seed: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        return undergo(draw(seed), Path(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
