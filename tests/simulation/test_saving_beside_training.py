"""Checkpoints are written beside the training, however slow the disk."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from support.cluster import Cluster

from decad.state.checkpoint import CheckpointStore, Snapshot

BLOCKS = 3


async def test_a_slow_disk_holds_nobody_up_and_the_next_checkpoint_has_all_that_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Snapshot] = []
    released = threading.Event()
    save = CheckpointStore.save

    def slow(store: CheckpointStore, snapshot: Snapshot) -> None:
        begun.append(snapshot)
        assert released.wait(30)
        save(store, snapshot)

    monkeypatch.setattr(CheckpointStore, "save", slow)
    async with Cluster(tmp_path, blocks=BLOCKS, inner_steps=5) as cluster:
        a = cluster.start("a", peers=())
        try:
            await cluster.until(lambda: begun, "the first checkpoint")
            await cluster.further(5 * BLOCKS + 2)
            assert len(begun) == 1
        finally:
            released.set()
        await cluster.until(lambda: len(begun) > 1, "the second checkpoint")
        first, second = begun[:2]
        assert len(first.blocks) == 1
        assert second.blocks.keys() == set(range(BLOCKS))
        await cluster.stop("a")
        assert begun[-1].run.step == a.step
