"""Machines die, come back, come late, and lose each other: nobody hangs, and all find together again."""

from __future__ import annotations

import asyncio
import random
import re
from itertools import pairwise
from pathlib import Path

import pytest
from support.cluster import Cluster, Machine, SimulatedPeer, simulated, spread

from decad.daemon.fetch import Donation
from decad.daemon.progress import Activity
from decad.daemon.session import Session
from decad.daemon.trainer import Trainer

LONGEST_STEP_S = 5.0
"""A bound for a step that waits for somebody in vain; it takes 0.2 s and what the machine is slow."""


def steps_are_bounded(machine: Machine) -> None:
    gaps = [after.at - before.at for before, after in pairwise(machine.peer.steps)]
    assert max(gaps, default=0) < LONGEST_STEP_S


def together(machines: list[Machine]) -> bool:
    """All train the same step, within one, and mixed with everybody in the last one."""
    return (
        max(m.step for m in machines) - min(m.step for m in machines) <= 1
        and all(m.peer.steps and m.peer.steps[-1].complete for m in machines)
        and all(len(m.peer.steps[-1].weights) == len(machines) - 1 for m in machines)
    )


def came_from(joiner: SimulatedPeer, others: list[SimulatedPeer]) -> None:
    """Every block that was set at ``joiner`` is bit for bit one that another peer held at some time."""
    assert joiner.model.fetched
    for block, value in joiner.model.fetched.items():
        assert any(value in other.model.held[block] for other in others), f"block {block}"


@simulated
async def test_the_others_go_on_when_one_is_killed(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        for name in "abcd":
            cluster.start(name, min_peers=3)
        await cluster.further(12)
        await cluster.kill("b")
        await cluster.further(25)
        for machine in cluster.running:
            steps_are_bounded(machine)
            assert re.search(r"b \(\w{8}\) is suspect", machine.peer.notices)
        assert together(cluster.running)


@simulated
async def test_a_late_joiner_fetches_what_was_trained_and_takes_the_step(tmp_path: Path) -> None:
    async with Cluster(tmp_path, inner_steps=20) as cluster:
        for name, own in (("a", -0.5), ("b", 0.5)):
            cluster.start(name, min_peers=1, own=own)
        await cluster.further(50)
        reached = min(m.step for m in cluster.running)
        late = cluster.start("c", own=0.1)
        await cluster.further(25)
        assert late.peer.steps[0].number >= reached
        assert len(late.model.fetched) >= 2
        came_from(late.peer, [cluster[name].peer for name in "ab"])
        await cluster.until(lambda: together(cluster.running), "all three together")


@simulated
async def test_a_joiner_waits_until_its_neighbours_have_said_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would take step 0 by itself, on a network whose first beacons are slower than its evaluation."""
    monkeypatch.setattr(
        Session, "tell_beacon", lambda session, force=False: None
    )  # half a second later they come
    async with Cluster(tmp_path, inner_steps=20) as cluster:
        cluster.start("a")
        await cluster.further(50)
        reached = cluster["a"].step
        late = cluster.start("b", min_peers=1)
        await cluster.further(1, "b")
        assert late.peer.steps[0].number >= reached
        assert late.model.fetched


@simulated
async def test_a_joiner_stops_at_once_though_its_donor_never_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(trainer: Trainer, block: int) -> Donation:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(Trainer, "donate", never)
    async with Cluster(tmp_path) as cluster:
        cluster.start("a")
        await cluster.further(12)
        late = cluster.start("b", min_peers=1)
        await cluster.until(lambda: late.peer.progress.activity is Activity.JOINING, "b joins")
        async with asyncio.timeout(3):
            await cluster.stop("b")
        await cluster.further(3, "a")


@simulated
async def test_a_killed_peer_comes_back_to_the_step_of_the_others(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        for name, own in (("a", -0.5), ("b", 0.0), ("c", 0.5)):
            cluster.start(name, min_peers=2, own=own)
        await cluster.further(18)  # in the middle of a phase, with a checkpoint behind
        before = cluster["c"].peer
        await cluster.kill("c")
        await cluster.further(40, "a", "b")
        reached = min(m.step for m in cluster.running)
        back = cluster.start("c", own=0.5, min_peers=1)
        await cluster.further(20)
        assert back.peer.steps[0].number >= reached
        came_from(back.peer, [cluster["a"].peer, cluster["b"].peer, before])
        await cluster.until(lambda: together(cluster.running), "all three together")


@simulated
async def test_a_stopped_peer_goes_on_in_the_middle_of_its_phase(tmp_path: Path) -> None:
    async with Cluster(tmp_path, inner_steps=50) as cluster:
        cluster.start("a")
        await cluster.further(20)
        await cluster.stop("a")
        before = cluster["a"].peer
        again = cluster.start("a").peer
        await cluster.further(5)
        assert again.steps[0].number == before.step == before.steps[-1].number + 1


@simulated
async def test_a_peer_that_was_stopped_in_a_phase_which_the_others_have_passed_twice_comes_back(
    tmp_path: Path,
) -> None:
    """Its checkpoint holds an active block that it must now fetch."""
    async with Cluster(tmp_path, inner_steps=6) as cluster:
        for name in "abc":
            cluster.start(name, min_peers=2)
        await cluster.until(lambda: cluster["c"].step % 6 == 3, "the middle of a phase")
        await cluster.stop("c")
        assert cluster["c"].step % 6
        await cluster.further(2 * 3 * 6, "a", "b")
        back = cluster.start("c", min_peers=1)
        await cluster.further(10)
        assert len(back.model.fetched) == 3
        await cluster.until(lambda: together(cluster.running), "all three together")


@simulated
async def test_a_newcomer_fetches_though_all_wait_for_one_another_at_first(tmp_path: Path) -> None:
    """Nobody trains yet when it looks whom to join; then somebody turns out to have trained long ago."""
    async with Cluster(tmp_path) as cluster:
        cluster.start("a")
        await cluster.further(52)
        await cluster.stop("a")
        before = cluster["a"].peer
        for name in "ab":
            cluster.start(name, min_peers=1)
        await cluster.further(1)
        newcomer = cluster["b"].peer
        assert newcomer.steps[0].number >= before.step
        came_from(newcomer, [before, cluster["a"].peer])
        assert len(newcomer.model.fetched) == 3


@simulated
async def test_a_newcomer_fetches_the_block_that_its_donor_waits_to_go_on_with(tmp_path: Path) -> None:
    """The donor came back in the middle of a phase and waits for more peers than there are."""
    async with Cluster(tmp_path) as cluster:
        cluster.start("a")
        await cluster.until(lambda: cluster["a"].step > 40 and cluster["a"].step % 5 == 2, "mid-phase")
        await cluster.stop("a")
        assert cluster["a"].step % 5
        cluster.start("a", min_peers=2)
        cluster.start("b", min_peers=1)
        cluster.start("c", min_peers=9)  # linked, but never trains
        await cluster.further(2, "b")
        assert not cluster["a"].peer.steps
        assert len(cluster["b"].model.fetched) == 3


@simulated
async def test_when_all_were_gone_the_highest_step_wins(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        for name in "abc":
            cluster.start(name, min_peers=2)
        await cluster.further(12)
        await cluster.stop("a")
        await cluster.further(20, "b", "c")
        await cluster.stop("b")
        await cluster.further(20, "c")
        await cluster.stop("c")
        highest = cluster["c"].step
        for name in "abc":
            cluster.start(name, min_peers=2)
        await cluster.further(10)
        assert all(m.peer.steps[-1].number >= highest + 9 for m in cluster.running)
        assert cluster["c"].peer.steps[0].number == highest
        await cluster.until(lambda: together(cluster.running), "all three together")


@simulated
async def test_a_peer_starts_though_two_of_its_neighbours_cannot_reach_each_other(tmp_path: Path) -> None:
    """On a ring the views of the three differ, so each sees other neighbours than they do."""
    async with Cluster(tmp_path, overlay="ring") as cluster:
        for name in "abcd":
            cluster.start(name, min_peers=3)
        await cluster.further(3)
        cluster.cut({"a"}, {"c"})
        for name in "abcd":
            await cluster.kill(name)
            cluster.start(name, peers=tuple("abcd".replace(name, "")))
            await cluster.further(3)


@pytest.mark.parametrize("encoding", ["fp32", "bf16-delta"])
@simulated
async def test_a_split_trains_on_in_both_halves_and_heals(tmp_path: Path, encoding: str) -> None:
    async with Cluster(tmp_path, encoding=encoding, blocks=2) as cluster:
        for name, own in zip("abcd", (-1.0, -0.5, 0.5, 1.0), strict=True):
            cluster.start(name, min_peers=3, own=own, peers=tuple("abcd".replace(name, "")))
        await cluster.further(25)
        whole = spread([m.peer for m in cluster.running])
        cluster.cut({"a", "b"}, {"c", "d"})
        await cluster.further(40)
        split = spread([m.peer for m in cluster.running])
        assert split > 2 * whole
        cluster.heal({"a", "b"}, {"c", "d"})
        await cluster.until(lambda: together(cluster.running), "all four together")
        await cluster.further(25)
        assert spread([m.peer for m in cluster.running]) < 0.5 * split
        for machine in cluster.running:
            steps_are_bounded(machine)


@pytest.mark.parametrize("seed", range(3))
@simulated
async def test_whatever_fails_nobody_hangs_and_all_find_together_again(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    names = "abcde"
    async with Cluster(tmp_path, overlay=chance.choice(["full", "ring", "exponential"])) as cluster:
        for name in names:
            cluster.start(
                name, min_peers=4, own=chance.uniform(-1, 1), peers=tuple(names.replace(name, "")[:4])
            )
        await cluster.further(6)
        for _ in range(8):
            a, b = chance.sample(names, 2)
            fault = chance.choice(["kill", "stop", "start", "cut", "heal"])
            if fault == "cut":
                cluster.cut({a}, {b})
            elif fault == "heal":
                cluster.heal({a}, {b})
            elif cluster[a].runs and fault in ("kill", "stop") and len(cluster.running) > 2:
                await (cluster.kill(a) if fault == "kill" else cluster.stop(a))
            elif not cluster[a].runs:
                cluster.start(a, peers=tuple(names.replace(a, "")))
            await cluster.further(chance.randrange(1, 8))
        cluster.heal(set(names), set(names))
        for name in names:
            if not cluster[name].runs:
                cluster.start(name, peers=tuple(names.replace(name, "")))
        await cluster.until(
            lambda: (
                max(m.step for m in cluster.running) - min(m.step for m in cluster.running) <= 1
                and all(m.peer.steps and m.peer.steps[-1].complete for m in cluster.running)
            ),
            "all five together",
        )
        for machine in cluster.running:
            steps_are_bounded(machine)


@simulated
async def test_nobody_waits_for_a_neighbour_that_waits_for_more_peers_itself(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        cluster.start("a", min_peers=1)
        waiting = cluster.start("b", min_peers=2)
        cluster.start("c", min_peers=9)  # linked, but never ready
        await cluster.further(10, "a")
        assert "neighbours that train (2 wanted, 1 here)" in waiting.peer.progress.waiting_for
        assert all(step.complete and not step.weights for step in cluster["a"].peer.steps)
        cluster.start("d", min_peers=1)
        await cluster.until(
            lambda: all(cluster[n].peer.steps and len(cluster[n].peer.steps[-1].weights) == 2 for n in "abd"),
            "all three mix",
        )
