"""Checkpoints are written beside the training, however slow the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cluster import Cluster, simulated

from decad.state.checkpoint import CheckpointStore, Snapshot

BLOCKS = 3
DISK_S = 60.0


@simulated
async def test_a_slow_disk_holds_nobody_up_and_the_next_checkpoint_has_all_that_changed(
    tmp_path: Path,
) -> None:
    begun: list[Snapshot] = []
    save = CheckpointStore.save

    def noted(store: CheckpointStore, snapshot: Snapshot) -> None:
        begun.append(snapshot)
        save(store, snapshot)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointStore, "save", noted)
        async with Cluster(tmp_path, blocks=BLOCKS, inner_steps=5) as cluster:
            a = cluster.start("a", peers=())
            a.disk_s = DISK_S
            await cluster.until(lambda: len(begun) > 1, "the second checkpoint", 4 * DISK_S)
            first, second = begun
            assert len(first.blocks) == 1
            assert second.run.step > first.run.step + 5 * BLOCKS
            assert second.blocks.keys() == set(range(BLOCKS))
            a.disk_s = 0
            await cluster.stop("a")
            assert begun[-1].run.step == a.step
