"""Slow peers, and messages that go one way only: what the others notice, and what the average does."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest
from simulation.asymmetric_loss import DEAF, LOSSES, drifts
from support.cluster import Cluster, simulated

from decad.core.absence import LEAST_S, PROBE

STEP_S = 0.5
"""Above the shortest deadline, so that who takes three times as long is late."""


@simulated
async def test_a_slow_peer_costs_the_others_a_deadline_and_takes_its_share_of_the_steps(
    tmp_path: Path,
) -> None:
    """It takes three times as long; while they wait for it at most half a step of theirs."""
    async with Cluster(tmp_path, inner_steps=20) as cluster:
        for name in "abcd":
            machine = cluster.start(name, min_peers=3, peers=tuple("abcd".replace(name, "")))
            machine.step_s = STEP_S * (3 if name == "d" else 1)
        await cluster.further(80, "a", "b", "c")
        steps = {name: cluster[name].peer.steps[20:] for name in "abcd"}  # the first have no history to go by
        begun, ended = steps["a"][0].at, steps["a"][-1].at
        mine = [step for step in cluster["d"].peer.steps if begun <= step.at <= ended]
        pace = {name: fmean(b.at - a.at for a, b in pairwise(steps[name])) for name in "abc"}
        assert max(pace.values()) < 1.2 * STEP_S + 0.5 * 1.2 * STEP_S + 0.1
        among_the_fast = [len(step.weights) >= 2 for name in "abc" for step in steps[name]]
        assert fmean(among_the_fast) > 0.95
        # Of every three computations of theirs it makes one, and as many more as they wait for it.
        share = len(mine) / len(steps["a"])
        assert 1 / 3 - 0.05 < share < 1 / 2 + 0.05
        assert cluster["d"].peer.progress.steps_skipped > 0
        assert abs(cluster["d"].step - cluster["a"].step) <= 3


@pytest.mark.parametrize("both_ways", [False, True], ids=["its blocks are lost", "blocks are lost both ways"])
@simulated
async def test_who_brings_nothing_thins_nobodys_mixing_and_counts_again_when_it_does(
    tmp_path: Path, both_ways: bool
) -> None:
    async with Cluster(tmp_path, inner_steps=20) as cluster:
        for name in "abcd":
            machine = cluster.start(name, min_peers=3, peers=tuple("abcd".replace(name, "")))
            machine.step_s = STEP_S
        roads = [(cluster["d"].host, cluster[name].host) for name in "abc"]
        roads += [(receiver, sender) for sender, receiver in roads] if both_ways else []
        for road in roads:
            cluster.network.weather[road] = DEAF
        await cluster.further(1)
        pairs = [(name, "d") for name in "abc"] + ([("d", name) for name in "abc"] if both_ways else [])

        def absent() -> list[bool]:
            figures = [cluster[name].peer.exchange.neighbour(cluster[it].id) for name, it in pairs]
            return [it is not None and it.absent for it in figures]

        await cluster.until(
            lambda: all(absent()), "all who hear nothing count each other out", patience=10 * LEAST_S
        )
        begun = max(len(cluster[name].peer.steps) for name in "abc")
        await cluster.further(10, "a", "b", "c")
        weights = [step.weights for name in "abc" for step in cluster[name].peer.steps[begun + 1 : begun + 9]]
        assert all(list(given) == pytest.approx([1 / 3] * 2) for given in weights)
        for road in roads:
            del cluster.network.weather[road]
        await cluster.further(PROBE + 2, "a", "b", "c", "d")
        assert not any(absent())
        assert all(len(cluster[name].peer.steps[-1].weights) == 3 for name in "abcd")


@pytest.mark.parametrize("overlay", ["full", "ring"])
@pytest.mark.parametrize("lost", LOSSES)
@simulated
async def test_loss_one_way_moves_the_average_no_further_than_what_was_lost(
    tmp_path: Path, overlay: str, lost: str
) -> None:
    """docs/theory.md: (1/n) sum of w_ij |theta_j - theta_i| over the directions lost; not at all if none is."""
    seen = await drifts(tmp_path, overlay, LOSSES[lost])
    assert len(seen) >= 20
    for drift in seen:
        assert drift.measured <= drift.bound
    if overlay == "full" and lost == "b does not hear a":
        assert any(
            drift.measured > 0.9 * drift.bound for drift in seen
        )  # it is reached: one direction, nothing cancels
