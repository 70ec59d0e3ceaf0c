"""What peers agree on before the first step, between whole peers: adoption, and refusal on both ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cluster import Cluster, simulated

from decad.errors import MismatchError


@pytest.mark.parametrize("first", ["a", "b"])
@simulated
async def test_a_peer_whose_settings_are_unset_adopts_the_others(tmp_path: Path, first: str) -> None:
    async with Cluster(tmp_path, lr=None, inner_steps=None) as cluster:
        for name in (first, "ab".replace(first, "")):
            if name == "a":
                cluster.start(name, min_peers=1, steps=8, lr=0.125, inner_steps=3, encoding="bf16-delta")
            else:
                cluster.start(name, min_peers=1, steps=8)
        await cluster.ended()
        specs = [cluster[name].peer.run_settings.spec for name in "ab"]
        assert specs[0] == specs[1]
        assert (specs[0].lr, specs[0].inner_steps, specs[0].encoding) == (0.125, 3, "bf16-delta")
        assert {step.block for step in cluster["b"].peer.steps} == {2, 1, 0}


@simulated
async def test_of_three_that_know_each_other_all_adopt_what_one_was_given(tmp_path: Path) -> None:
    async with Cluster(tmp_path, lr=None, inner_steps=None) as cluster:
        for name in "ab":
            cluster.start(name, min_peers=2, steps=8)
        cluster.start("c", min_peers=2, steps=8, lr=0.25, inner_steps=4)
        await cluster.ended()
        specs = {cluster[name].peer.run_settings.spec.fingerprint for name in "abc"}
        assert len(specs) == 1
        spec = cluster["a"].peer.run_settings.spec
        assert (spec.lr, spec.inner_steps) == (0.25, 4)


@simulated
async def test_two_that_were_set_differently_refuse_each_other_and_say_why(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        accepts = cluster.start("a", min_peers=1, overlay="full")
        cluster.start("b", min_peers=1, overlay="ring")
        error = await cluster.failure("b")
        assert isinstance(error, MismatchError)
        assert "overlay is ring here and full there" in str(error)
        await cluster.told("a", "overlay is full here and ring there")
        assert accepts.runs
        assert not accepts.peer.steps


@simulated
async def test_a_joiner_that_was_set_differently_disturbs_nobody(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        for name in "ab":
            cluster.start(name, min_peers=1)
        await cluster.further(5)
        cluster.start("c", weight_decay=0.5)
        assert "weight_decay is 0.5 here and 0.0 there" in str(await cluster.failure("c"))
        taken = {name: len(cluster[name].peer.steps) for name in "ab"}
        await cluster.further(10, "a", "b")
        for name in "ab":
            assert all(len(step.weights) == 1 for step in cluster[name].peer.steps[taken[name] :])


@simulated
async def test_one_that_has_trained_does_not_change_its_mind(tmp_path: Path) -> None:
    """It keeps the defaults that it trained with; the newcomer was told otherwise."""
    async with Cluster(tmp_path, lr=None) as cluster:
        trained = cluster.start("a")
        await cluster.further(5)
        cluster.start("b", lr=0.5)
        assert isinstance(await cluster.failure("b"), MismatchError)
        assert trained.peer.run_settings.spec.lr != 0.5
