"""What it does to the network average when one end of an edge hears the other, and the other does not.

python tests/simulation/asymmetric_loss.py     (tests on PYTHONPATH) prints the table of docs/theory.md
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import torch
from support.cluster import Cluster
from support.ledger import Drift
from support.virtual import run
from support.weather import Weather

NAMES = "abcdef"
STEPS, WHOLE = 60, 20
"""So many at least, and so many that all six took: lost messages break links, and who dials again takes none."""
DEAF = Weather(loss=1.0, channels=("blocks",))
LOSSES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "nothing is lost": (),
    "b does not hear a": (("a", "b"),),
    "nobody hears a": tuple(("a", name) for name in "bcdef"),
    "a hears nobody": tuple((name, "a") for name in "bcdef"),
    "each hears only the next one": tuple(
        (NAMES[(i + hop) % 6], name) for i, name in enumerate(NAMES) for hop in range(2, 6)
    ),
}
"""By name: (sender, receiver) whose blocks are lost on the way."""


async def drifts(folder: Path, overlay: str, lost: tuple[tuple[str, str], ...]) -> list[Drift]:
    """Of every step that all six took."""
    async with Cluster(folder, overlay=overlay) as cluster:
        for i, name in enumerate(NAMES):
            cluster.start(name, min_peers=5, peers=tuple(NAMES.replace(name, "")), own=-1 + 2 * i / 5)
        for sender, receiver in lost:
            cluster.network.weather[cluster[sender].host, cluster[receiver].host] = DEAF
        await cluster.further(STEPS)
        while len(whole := _taken_by_all(cluster)) < WHOLE:
            await cluster.further(STEPS)
        return [cluster.ledger.drift(step, len(NAMES)) for step in whole]


def _taken_by_all(cluster: Cluster) -> list[int]:
    return [
        step
        for step, entries in cluster.ledger.steps.items()
        if sum(entry.increment is not None for entry in entries) == len(NAMES)
    ]


def main() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    print(f"{'overlay':12} {'lost':30} {'steps':>5} {'moved by':>9} {'bound':>9} {'ratio':>6}")
    for overlay in ("full", "ring"):
        for name, lost in LOSSES.items():
            with tempfile.TemporaryDirectory() as folder:
                seen = run(drifts(Path(folder), overlay, lost))
            moved, bound = fmean(d.measured for d in seen), fmean(d.bound for d in seen)
            print(f"{overlay:12} {name:30} {len(seen):5} {moved:9.6f} {bound:9.6f} {moved / bound:6.2f}")


if __name__ == "__main__":
    main()
