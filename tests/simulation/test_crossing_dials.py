"""Peers that dial each other at the same time end with one link, the same at both ends."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.cluster import Cluster, simulated
from support.weather import Weather

NAMES = "abcd"
STEPS = 10


@pytest.mark.parametrize("seed", range(12))
@simulated
async def test_of_two_links_that_cross_both_ends_keep_the_same(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with Cluster(tmp_path, seed=seed) as cluster:
        cluster.network.usual = Weather(latency_s=chance.uniform(0.002, 0.03), jitter_s=0.01)
        for name in NAMES:
            others = tuple(other for other in NAMES if other != name)
            cluster.start(name, min_peers=len(NAMES) - 1, steps=STEPS, peers=others)
        await cluster.ended()
        for machine in cluster.machines.values():
            assert [len(step.weights) for step in machine.peer.steps] == [len(NAMES) - 1] * STEPS
            assert "its link closed" not in machine.peer.notices
