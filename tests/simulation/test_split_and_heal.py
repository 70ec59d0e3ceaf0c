"""docs/protocol.md, "Split and heal": both parts train on, and mixing takes away what came between them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support.cluster import Cluster, simulated

from decad.core.overlay import mixing_matrix, neighbours

NAMES = "abcdefgh"
LEFT, RIGHT = set("abcd"), set("efgh")
BLOCKS = 2
ROUNDING = 1e-6
"""Averages of values of about 1 in fp32 differ by less."""


def disagreement(cluster: Cluster) -> dict[int, tuple[int, float]]:
    """Step -> block, and how far apart it was after that step: root mean squared distance from the average.

    Of the steps that all took and mixed.
    """
    apart = {}
    taken = [{step.number: step for step in machine.peer.steps} for machine in cluster.machines.values()]
    for number in sorted(set[int].intersection(*(set(steps) for steps in taken))):
        theta = torch.stack([steps[number].theta for steps in taken])
        distance = float((theta - theta.mean(dim=0)).square().mean().sqrt())
        apart[number] = taken[0][number].block, distance
    return apart


def second_eigenvalue(cluster: Cluster, overlay: str) -> float:
    """Of W, the second largest modulus."""
    matrix = mixing_matrix(overlay, [machine.id for machine in cluster.machines.values()])
    return float(torch.linalg.eigvalsh(matrix).abs().sort(descending=True).values[1])


@pytest.mark.parametrize(("overlay", "inner_steps"), [("full", 12), ("exponential", 12), ("ring", 30)])
@simulated
async def test_after_a_split_each_block_agrees_again_as_fast_as_the_overlay_mixes(
    tmp_path: Path, overlay: str, inner_steps: int
) -> None:
    async with Cluster(
        tmp_path, overlay=overlay, blocks=BLOCKS, inner_steps=inner_steps, lr=0.02, moments="none"
    ) as cluster:
        for name in NAMES:
            own = 1.0 if name in LEFT else -1.0
            cluster.start(name, min_peers=7, own=own, peers=tuple(NAMES.replace(name, "")))
        await cluster.further(2 * BLOCKS * inner_steps)
        cluster.cut(LEFT, RIGHT)
        cut_at = max(machine.step for machine in cluster.running)
        await cluster.further(3 * BLOCKS * inner_steps)
        assert all(len(machine.peer.steps[-1].weights) <= 3 for machine in cluster.running)
        cluster.heal(LEFT, RIGHT)
        values = torch.stack([machine.model.values for machine in cluster.running])
        split = (values - values.mean(dim=0)).square().mean(dim=(0, 2)).sqrt()
        await cluster.until(lambda: mix_with_all(cluster, overlay), "all mix with all their neighbours")
        healed_at = max(machine.step for machine in cluster.running)
        phase = -(-(healed_at + 1) // inner_steps)
        await cluster.until(
            lambda: all(m.step >= (phase + BLOCKS) * inner_steps for m in cluster.running), "a round"
        )
        apart = disagreement(cluster)
        rho = second_eigenvalue(cluster, overlay)
        for block in range(BLOCKS):
            before = max(
                ROUNDING, [d for number, (b, d) in apart.items() if b == block and number < cut_at][-1]
            )
            first = next(n for n, (b, _) in apart.items() if b == block and n >= phase * inner_steps)
            bound = max(1, math.ceil(math.log(2 * float(split[block]) / before) / -math.log(max(rho, 1e-9))))
            assert split[block] > 2 * before
            assert apart[first + bound - 1][1] < 2 * before


def mix_with_all(cluster: Cluster, overlay: str) -> bool:
    """Whether all are at one step, and see all the neighbours that they have when everybody is there."""
    ids = [machine.id for machine in cluster.machines.values()]
    steps = {machine.step for machine in cluster.running}
    return max(steps) - min(steps) <= 1 and all(
        machine.peer.network.neighbourhood.edges() == neighbours(overlay, ids, machine.id)
        for machine in cluster.running
    )
