"""Each unit of the data belongs to one peer, and every peer has some."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decad.errors import ConfigError
from decad.lab.partition import LEAST, partition

KINDS = st.sampled_from(["domain", "iid", "dirichlet:0.1", "dirichlet:10", "quantity:0.3"])


@given(KINDS, st.integers(1, 9), st.integers(1, 6), st.integers(0, 200), st.integers(0, 5))
def test_every_unit_has_one_owner(kind: str, peers: int, kinds: int, more: int, seed: int) -> None:
    labels = np.sort(np.arange(LEAST * peers + kinds + more) % kinds)
    parts = partition(kind, labels, peers, seed)
    assert len(parts) == peers
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert all(len(part) >= LEAST and (np.diff(part) > 0).all() for part in parts)


def test_equal_seeds_give_equal_parts_and_others_others() -> None:
    labels = np.arange(400) % 4
    first, again, other = (partition("dirichlet:0.5", labels, 8, seed) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("kind", "sizes", "first"),
    [
        ("iid", [25, 25, 25, 25], [1, 10, 14]),
        ("quantity:0.5", [21, 2, 57, 20], [0, 10, 13]),
        ("dirichlet:0.3", [15, 9, 74, 2], [1, 4, 7]),
    ],
)
def test_a_seed_means_the_same_on_every_machine_and_in_every_version(
    kind: str, sizes: list[int], first: list[int]
) -> None:
    parts = partition(kind, np.arange(100) % 3, 4, 7)
    assert [len(part) for part in parts] == sizes
    assert parts[0][:3].tolist() == first


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0, 20.0])
def test_shares_have_the_mean_and_the_variance_of_dirichlet(alpha: float) -> None:
    units, peers, draws = 1000, 5, 400
    sizes = np.array(
        [
            [
                len(part)
                for part in partition(f"quantity:{alpha}", np.zeros(units, dtype=np.int64), peers, seed)
            ]
            for seed in range(draws)
        ]
    )
    mean = 1 / peers
    variance = mean * (1 - mean) / (peers * alpha + 1)
    assert (sizes / units).mean(axis=0) == pytest.approx(mean, abs=4 * (variance / draws) ** 0.5)
    assert (sizes / units).var() == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize("alpha", ["0.01", "1e6"])
def test_the_ends_of_alpha_are_one_peer_and_all_alike(alpha: str) -> None:
    sizes = sorted(len(part) for part in partition(f"quantity:{alpha}", np.zeros(100, dtype=np.int64), 4, 0))
    assert sizes == ([LEAST, LEAST, LEAST, 100 - 3 * LEAST] if alpha == "0.01" else [25] * 4)


@pytest.mark.parametrize(("peers", "expected"), [(4, [[0], [1], [2], [3]]), (8, [[0], [1], [2], [3]] * 2)])
def test_by_domain_a_peer_has_one_domain(peers: int, expected: list[list[int]]) -> None:
    labels = np.repeat(np.arange(4), 50)
    parts = partition("domain", labels, peers, 0)
    assert [sorted(set(labels[part])) for part in parts] == expected
    assert {len(part) for part in parts} == {200 // peers}


def test_of_fewer_peers_than_domains_some_have_several() -> None:
    labels = np.repeat(np.arange(3), 10)
    assert [sorted(set(labels[part])) for part in partition("domain", labels, 2, 0)] == [[0, 2], [1]]


def test_the_lower_alpha_the_more_unequal() -> None:
    labels = np.arange(4000) % 4

    def largest_share(alpha: float) -> float:
        parts = partition(f"dirichlet:{alpha}", labels, 8, 0)
        return float(np.mean([np.bincount(labels[part]).max() / len(part) for part in parts]))

    assert largest_share(100) < 0.35 < 0.6 < largest_share(0.1)


@pytest.mark.parametrize(
    "kind", ["sorted", "dirichlet", "dirichlet:0", "dirichlet:x", "quantity:-1", "quantity:1e-9"]
)
def test_what_is_no_partition_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="partition"):
        partition(kind, np.zeros(10, dtype=np.int64), 2, 0)


def test_too_little_for_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="7 sequences or examples are too few for 4 peers"):
        partition("iid", np.zeros(7, dtype=np.int64), 4, 0)
