"""Thousands of steps beside a neighbour that fails again and again: does the daemon hold more and more?

    python tests/chaos/leak.py [--steps 10000] [--every 20] [--out DIRECTORY]

Prints the slope of each figure with its 95 % confidence interval; with ``--out`` also writes samples.csv and
samples.svg there.
"""

from __future__ import annotations

import argparse
import csv
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from support.leaks import FIGURES, Sample, observe, slopes  # noqa: E402  # after sys.path


def _write(samples: Sequence[Sample], folder: Path) -> None:
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "samples.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(Sample._fields)
        table.writerows(samples)
    figure, axes = plt.subplots(len(FIGURES), 1, sharex=True, figsize=(8, 8))
    for axis, name in zip(axes, FIGURES, strict=True):
        axis.plot([s.step for s in samples], [getattr(s, name) for s in samples], linewidth=0.8)
        axis.set_ylabel(name)
    axes[-1].set_xlabel(f"step; {samples[-1].failures} failures of the neighbour")
    figure.savefig(folder / "samples.svg")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=20, help="steps between two failures")
    parser.add_argument("--out", type=Path, help="directory for samples.csv and samples.svg")
    chosen = parser.parse_args()
    samples: list[Sample] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as folder:
        for sample in observe(Path(folder), chosen.steps, chosen.every):
            samples.append(sample)
            print(*(f"{name} {value:g}" for name, value in sample._asdict().items()), sep="  ", flush=True)
    if chosen.out:
        _write(samples, chosen.out)
    print(f"{samples[-1].step} steps, {samples[-1].failures} failures of the neighbour")
    print(*slopes(samples), sep="\n")


if __name__ == "__main__":
    main()
