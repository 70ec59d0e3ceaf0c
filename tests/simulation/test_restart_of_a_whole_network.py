"""Exact state: a network that is stopped and started again ends where one that was not stopped does, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.cluster import Cluster, simulated
from support.saved import assert_same, saved
from support.toy import ToyModel
from torch import Tensor

from decad.core.batch import Batch

NAMES = "abc"
INNER_STEPS = 5


@pytest.fixture(autouse=True)
def the_batch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy that also learns what it reads, so that a position in the data that was lost shows."""
    plain = ToyModel.gradient

    def gradient(model: ToyModel, batch: Batch, interrupted: Callable[[], bool]) -> tuple[float, Tensor]:
        loss, apart = plain(model, batch, interrupted)
        return loss, apart + batch.inputs.float().mean() / 1000

    monkeypatch.setattr(ToyModel, "gradient", gradient)


async def train(folder: Path, steps: int, again: bool, moments: str, encoding: str) -> None:
    """All peers until ``steps``, every one of them in every step; ``again``: from checkpoints of their own."""
    async with Cluster(
        folder, inner_steps=INNER_STEPS, moments=moments, encoding=encoding, order="shuffled"
    ) as cluster:
        for i, name in enumerate(NAMES):
            cluster.start(name, min_peers=len(NAMES) - 1, steps=steps, own=i - 1.0)
        await cluster.ended()
        for machine in cluster.machines.values():
            taken = machine.peer.steps
            assert [step.number for step in taken] == list(range(steps // 2 if again else 0, steps))
            assert all(len(step.weights) == len(NAMES) - 1 for step in taken)


@pytest.mark.parametrize("half", [8, 10], ids=["within a phase", "between phases"])
@pytest.mark.parametrize("encoding", ["fp32", "bf16-delta"])
@pytest.mark.parametrize("moments", ["rowwise", "gossip", "signal", "none"])
@simulated
async def test_a_network_stopped_and_restarted_ends_bit_identical(
    tmp_path: Path, moments: str, encoding: str, half: int
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    await train(whole, 2 * half, False, moments, encoding)
    await train(parts, half, False, moments, encoding)
    await train(parts, 2 * half, True, moments, encoding)
    for name in NAMES:
        assert_same(saved(parts / name), saved(whole / name))


@simulated
async def test_restarted_peers_find_each_other_where_they_met_before(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        for name in NAMES:
            cluster.start(name, min_peers=2, steps=7)
        await cluster.ended()
        for name in NAMES:
            cluster.start(name, peers=(), min_peers=2)
        await cluster.further(3)
