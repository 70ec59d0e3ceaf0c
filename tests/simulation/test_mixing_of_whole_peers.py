"""Whole peers on a memory network: what mixing promises holds when the daemon's own loops drive it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
import torch
from support.cluster import Cluster, Step, simulated, spread


@simulated
async def test_after_a_step_in_which_nobody_was_missing_the_block_is_the_same_everywhere(
    tmp_path: Path,
) -> None:
    """T3: on the overlay `full` all weights are 1/N, so one mixing is the average itself."""
    async with Cluster(tmp_path) as cluster:
        for name, own in (("a", -0.5), ("b", 0.0), ("c", 0.7)):
            cluster.start(name, min_peers=2, steps=45, own=own)
        await cluster.ended()
        taken: defaultdict[int, list[Step]] = defaultdict(list)
        for machine in cluster.machines.values():
            for step in machine.peer.steps:
                taken[step.number].append(step)
    whole = [
        steps
        for steps in taken.values()
        if len(steps) == 3 and all(s.complete and len(s.weights) == 2 for s in steps)
    ]
    assert len(whole) >= 30
    for steps in whole:
        for step in steps:
            assert step.weights == (1 / 3, 1 / 3)
            torch.testing.assert_close(step.theta, steps[0].theta, atol=1e-6, rtol=0)


@pytest.mark.parametrize("overlay", ["ring", "exponential"])
@simulated
async def test_eight_peers_that_want_different_things_come_to_agree(tmp_path: Path, overlay: str) -> None:
    wishes = {name: -1 + 2 * i / 7 for i, name in enumerate("abcdefgh")}
    async with Cluster(
        tmp_path, blocks=2, overlay=overlay, inner_steps=10, schedule="linear:40", lr=0.15
    ) as cluster:
        for name, own in wishes.items():
            cluster.start(name, min_peers=7, steps=40, own=own)
        await cluster.ended()
        peers = [machine.peer for machine in cluster.machines.values()]
        # Each for itself they would be as far apart as their wishes.
        apart = torch.stack([peer.model.target for peer in peers]).std(dim=0, correction=0)
        assert spread(peers) < 0.25 * float(apart.square().mean().sqrt())
        assert all(peer.progress.held_out_loss < 0.2 * peer.progress.first_held_out_loss for peer in peers)
        complete = [step.complete for peer in peers for step in peer.steps]
        assert sum(complete) > 0.25 * len(complete)  # nearly all, on a machine that is not busy


@pytest.mark.parametrize("encoding", ["fp32", "bf16-delta"])
@pytest.mark.parametrize("moments", ["rowwise", "gossip", "signal", "none"])
@simulated
async def test_every_rule_and_encoding_trains(tmp_path: Path, moments: str, encoding: str) -> None:
    async with Cluster(tmp_path, moments=moments, encoding=encoding, lr=0.05) as cluster:
        for name, own in (("a", -0.3), ("b", 0.3)):
            cluster.start(name, min_peers=1, steps=2 * 3 * 5, own=own)
        await cluster.ended()
        for machine in cluster.machines.values():
            progress = machine.peer.progress
            assert progress.step == 30
            assert progress.steps_taken >= 20  # all, unless the machine stood still for a while
            assert progress.held_out_loss < 0.6 * progress.first_held_out_loss
