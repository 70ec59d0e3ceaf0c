"""A state directory was copied, and both copies run: the one that was there first stays, and everybody is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.cluster import Cluster, Machine, simulated

from decad.daemon.handshake import DuplicateIdentityError


def clone(cluster: Cluster, original: str, copy: str) -> None:
    """The machine ``copy`` has the key of ``original``."""
    machine = cluster.machines[copy] = Machine(copy, 0)
    machine.key, machine.id, machine.lives = cluster[original].key, cluster[original].id, 100


def gone(cluster: Cluster, name: str) -> int:
    return len(re.findall(r" is (suspect|gone)", cluster[name].peer.notices))


@pytest.mark.parametrize("names", [("a",), ("a", "b")], ids=["knows the third", "knows its original too"])
@simulated
async def test_the_second_daemon_is_refused_and_the_first_stays(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    async with Cluster(tmp_path) as cluster:
        for name in "ab":
            cluster.start(name, min_peers=1)
        await cluster.further(10)
        clone(cluster, "b", "c")
        cluster.start("c", peers=names, min_peers=1)
        error = await cluster.failure("c")
        assert isinstance(error, DuplicateIdentityError)
        assert "--state-dir" in str(error)
        await cluster.told("a", f"Two daemons use the identity of peer b ({cluster['b'].id[:8]})")
        await cluster.told("b", "another daemon that uses this peer's identity")
        await cluster.further(20, "a", "b")
        assert gone(cluster, "a") == gone(cluster, "b") == 0
        assert all(m.peer.steps[-1].complete and m.peer.steps[-1].weights for m in cluster.running)


@simulated
async def test_copies_that_were_found_go_on_knocking_and_nothing_is_told_twice(tmp_path: Path) -> None:
    """The copy was not told of its third peer: it finds it as by mDNS, and so does not end by its refusal."""
    async with Cluster(tmp_path) as cluster:
        for name in "ab":
            cluster.start(name, min_peers=1)
        await cluster.further(10)
        clone(cluster, "b", "c")
        copy = cluster.start("c", peers=(), min_peers=1)
        await cluster.until(lambda: copy.peer._board is not None, "the copy has loaded")
        copy.peer.network.dials.add("10.0.0.1:7700", "exchange", 0.0)
        await cluster.told("c", "refuses this one")
        await cluster.further(400, "a", "b")  # half a minute
        assert gone(cluster, "a") == gone(cluster, "b") == 0
        for name in "abc":
            told = [text for text in cluster[name].peer.notices.splitlines() if "identity" in text]
            assert len(told) == 1, told


@simulated
async def test_the_copy_takes_its_place_when_the_first_has_ended(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        for name in "ab":
            cluster.start(name, min_peers=1)
        await cluster.further(10)
        clone(cluster, "b", "c")
        copy = cluster.start("c", peers=(), min_peers=1)
        await cluster.until(lambda: copy.peer._board is not None, "the copy has loaded")
        copy.peer.network.dials.add("10.0.0.1:7700", "exchange", 0.0)
        await cluster.told("c", "refuses this one")
        await cluster.stop("b")
        await cluster.further(3, "c")
        assert cluster["c"].peer.steps[-1].weights


@simulated
async def test_a_peer_that_restarts_without_a_word_is_let_in_at_once(tmp_path: Path) -> None:
    """It has another instance too, and its old link may not have ended yet."""
    async with Cluster(tmp_path) as cluster:
        for name in "ab":
            cluster.start(name, min_peers=1)
        await cluster.further(10)
        await cluster.kill("b")
        cluster.start("b", min_peers=1)
        await cluster.further(5)
        assert "identity" not in cluster["a"].peer.notices + cluster["b"].peer.notices
