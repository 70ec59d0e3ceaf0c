from __future__ import annotations

import pytest

from decad.core.overlay import edge_weight, graph, mixing_matrix, neighbours, parse_overlay
from decad.errors import ConfigError

EIGHT = "abcdefgh"
RANDOM_2 = {
    "a": "bfg",
    "b": "acde",
    "c": "bdeh",
    "d": "bcfh",
    "e": "bcfg",
    "f": "adeh",
    "g": "aeh",
    "h": "cdfg",
}

ERDOS_04 = {
    "a": "bcfgh",
    "b": "afh",
    "c": "adef",
    "d": "ceg",
    "e": "cd",
    "f": "abcg",
    "g": "adfh",
    "h": "abg",
}


@pytest.mark.parametrize(
    ("overlay", "members", "me", "expected"),
    [
        ("full", "abc", "b", "ac"),
        ("ring", EIGHT, "a", "bh"),
        ("ring", "ab", "a", "b"),
        ("ring", "a", "a", ""),
        ("line", EIGHT, "a", "b"),
        ("line", EIGHT, "d", "ce"),
        ("line", EIGHT, "h", "g"),
        ("line", "ab", "b", "a"),
        ("exponential", EIGHT, "a", "bcegh"),
        ("exponential", "abc", "a", "bc"),
        ("exponential", "a", "a", ""),
        ("random:3", "ab", "a", "b"),
        ("random:3", "a", "a", ""),
        ("erdos:0.5", "a", "a", ""),
        ("erdos:.000001", "abcd", "b", "ac"),
        ("erdos:0.999999", "abcd", "b", "acd"),
    ],
)
def test_neighbours_of_a_named_overlay(overlay: str, members: str, me: str, expected: str) -> None:
    assert neighbours(overlay, members, me) == frozenset(expected)


def test_the_order_of_the_members_does_not_matter() -> None:
    assert neighbours("ring", "dbca", "a") == neighbours("ring", "abcd", "a")


def test_edges_join_names_and_id_prefixes() -> None:
    names = {"11aa": "anna", "22bb": "ben", "33cc": ""}
    overlay = "edges:anna-ben,ben-33"
    assert neighbours(overlay, names, "22bb", names) == {"11aa", "33cc"}
    assert neighbours(overlay, names, "33cc", names) == {"22bb"}


def test_a_name_goes_before_a_prefix() -> None:
    names = {"ada1": "", "ffff": "ada", "0000": "x"}
    assert neighbours("edges:ada-x", names, "0000", names) == {"ffff"}
    assert neighbours("edges:ada-x", names, "ada1", names) == frozenset()


def test_an_end_that_several_answer_to_joins_each() -> None:
    names = {"1": "w", "2": "w", "3": "hub"}
    assert neighbours("edges:w-hub", names, "3", names) == {"1", "2"}


def test_an_end_that_nobody_answers_to_gives_no_edge() -> None:
    assert neighbours("edges:anna-ben", {"11"}, "11", {"11": "anna"}) == frozenset()


def test_nobody_is_his_own_neighbour() -> None:
    assert neighbours("edges:anna-anna", {"11"}, "11", {"11": "anna"}) == frozenset()


def test_random_rings_are_the_same_on_every_machine_and_in_every_version() -> None:
    """Peers compute the overlay each for itself: another hash would be another protocol."""
    assert {me: "".join(sorted(near)) for me, near in graph("random:2", EIGHT).items()} == RANDOM_2


def test_an_erdos_graph_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert {me: "".join(sorted(near)) for me, near in graph("erdos:0.4", EIGHT).items()} == ERDOS_04


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_an_erdos_graph_has_its_share_of_the_pairs(density: float) -> None:
    members = [f"{number:04x}" for number in range(200)]
    edges = sum(len(near) for near in graph(f"erdos:{density}", members).values()) / 2
    assert edges / (200 * 199 / 2) == pytest.approx(density, abs=0.01)


@pytest.mark.parametrize(
    "overlay",
    ["star", "edges:", "edges:a", "edges:a-b-c", "edges:@a-b", "ring:3", "random", "random:0", "random:33"]
    + [f"erdos{rest}" for rest in ("", ":", ":0", ":0.0", ":1", ":1.5", ":-0.1", ":nan", ":.0000001")],
)
def test_an_unknown_overlay_is_the_operators_to_mend(overlay: str) -> None:
    with pytest.raises(
        ConfigError, match=r"write full, ring, line, exponential, random:K .*, erdos:P .* or edges:A-B,B-C"
    ):
        parse_overlay(overlay)


@pytest.mark.parametrize(
    ("overlay", "degrees", "weight"),
    [
        ("full", (7, 7), 1 / 8),
        ("ring", (2, 2), 1 / 3),
        ("exponential", (4, 4), 1 / 5),
        ("exponential", (5, 5), 1 / 6.25),
        ("edges:a-b", (1, 8), 1 / 10),
        ("edges:a-b", (8, 1), 1 / 10),
    ],
)
def test_edge_weights(overlay: str, degrees: tuple[int, int], weight: float) -> None:
    assert edge_weight(overlay, *degrees) == pytest.approx(weight)


def test_full_overlay_averages_in_one_step() -> None:
    assert mixing_matrix("full", "abcd").tolist() == [[0.25] * 4] * 4
