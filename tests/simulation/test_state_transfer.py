"""Who was away or behind gets the blocks that were trained meanwhile, however slowly, and loses none that came."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest
from support.cluster import Cluster, simulated, spread

from decad.daemon.fetch import Donation
from decad.daemon.progress import Activity
from decad.daemon.trainer import Trainer

BLOCKS = 3


def slow_donations(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """Every block takes so long to come. Returns those that were asked for, from then on."""
    at_once, asked = Trainer.donate, list[int]()

    async def donate(trainer: Trainer, block: int) -> Donation:
        asked.append(block)
        await asyncio.sleep(seconds)
        return await at_once(trainer, block)

    monkeypatch.setattr(Trainer, "donate", donate)
    return asked


async def sleeps(cluster: Cluster, name: str, steps: int) -> None:
    """The peer is held up and heard by nobody while the others take so many steps: a laptop's lid is closed."""
    machine, others = cluster[name], {m.name for m in cluster.running if m.name != name}
    usual, machine.step_s = machine.step_s, 30.0
    cluster.cut({name}, others)
    await cluster.further(steps, *others)
    cluster.heal({name}, others)
    machine.step_s = usual


@simulated
async def test_a_running_peer_that_was_outrun_by_whole_phases_fetches_them(tmp_path: Path) -> None:
    async with Cluster(tmp_path, blocks=BLOCKS) as cluster:
        for name, own in (("a", -0.5), ("b", 0.0), ("c", 0.5)):
            cluster.start(name, min_peers=2, own=own)
        await cluster.further(8)
        slept = cluster["c"]
        await sleeps(cluster, "c", 5 * BLOCKS)
        await cluster.told("c", "fetched the blocks that were trained meanwhile (3)")
        for block, values in slept.model.fetched.items():
            assert any(values in cluster[other].model.held[block] for other in "ab")
        await cluster.further(3)
        assert all(m.peer.steps[-1].complete for m in cluster.running)
        assert spread([m.peer for m in cluster.running]) < 0.05


@simulated
async def test_a_peer_that_missed_no_whole_phase_only_takes_the_step(tmp_path: Path) -> None:
    async with Cluster(tmp_path, blocks=BLOCKS, inner_steps=40) as cluster:
        for name in "abc":
            cluster.start(name, min_peers=2)
        await cluster.until(lambda: cluster["c"].step == 35, "the end of a phase is near")
        await sleeps(cluster, "c", 8)
        await cluster.told("c", "to catch up with the neighbours")
        assert cluster["c"].step > 40
        await cluster.further(3)
        assert not cluster["c"].model.fetched


@simulated
async def test_a_joiner_slower_than_a_phase_trains_beside_the_others_and_gets_all_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_donations(monkeypatch, 2.0)  # of phases that take a quarter of a second
    async with Cluster(tmp_path, blocks=6) as cluster:
        for name, own in (("a", -0.5), ("b", 0.5)):
            cluster.start(name, min_peers=1, own=own)
        await cluster.further(70)
        late = cluster.start("c", min_peers=1)
        await cluster.told("c", "beside it")
        await cluster.further(250)
        peers = [m.peer for m in cluster.running]
        assert spread(peers) < 0.02
        assert all(m.peer.steps[-1].complete for m in cluster.running)
        assert late.peer.steps[-1].weights == pytest.approx((1 / 3, 1 / 3))


@simulated
async def test_blocks_that_came_before_a_join_was_cut_short_are_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, blocks=BLOCKS) as cluster:
        cluster.start("a")
        await cluster.further(5 * BLOCKS + 2)
        cluster["a"].step_s = 100.0  # what it gives stays the newest
        asked = slow_donations(monkeypatch, 2.0)
        cut_short = cluster.start("b", min_peers=1)
        await cluster.until(lambda: len(cut_short.model.fetched) == 2, "two blocks came")
        await asyncio.sleep(1.0)
        assert len(asked) == BLOCKS
        await cluster.kill("b")
        missing = asked.pop()
        asked.clear()
        cluster.start("b", min_peers=1)
        await cluster.further(1, "b")
        assert asked == [missing]


@simulated
async def test_a_long_join_is_not_taken_for_stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog looks at the pulse: it beats with what comes, not only when all has come."""
    slow_donations(monkeypatch, 5.0)
    async with Cluster(tmp_path, blocks=6) as cluster:
        cluster.start("a")
        await cluster.further(5 * 6 + 2)
        cluster["a"].step_s = 100.0
        joiner = cluster.start("b", min_peers=1)
        await cluster.until(lambda: joiner.peer.progress.activity is Activity.JOINING, "it joins")
        beats, pulse = [asyncio.get_running_loop().time()], joiner.peer.progress.pulse
        while joiner.peer.progress.activity is Activity.JOINING:
            if joiner.peer.progress.pulse != pulse:
                pulse = joiner.peer.progress.pulse
                beats.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.1)
        assert beats[-1] - beats[0] > 20
        assert max(after - before for before, after in pairwise(beats)) < 12
