from __future__ import annotations

from decad.membership.edges import mixing_edges

IDS = ["a", "b", "c", "d", "e"]


def _full_views(members: list[str]) -> dict[str, set[str]]:
    return {peer: set(members) - {peer} for peer in members}


def test_full_overlay_with_equal_views_mixes_with_all() -> None:
    views = _full_views(IDS)
    assert mixing_edges("a", "full", {}, views["a"], views) == {"b", "c", "d", "e"}


def test_ring_of_equal_views() -> None:
    views = _full_views(IDS)
    assert mixing_edges("a", "ring", {}, views["a"], views) == {"b", "e"}


def test_no_edge_to_a_peer_whose_view_is_not_known_yet() -> None:
    assert mixing_edges("a", "full", {}, {"b", "c"}, {"b": {"a", "c"}}) == {"b"}


def test_no_edge_to_a_peer_that_does_not_count_us() -> None:
    assert mixing_edges("a", "full", {}, {"b", "c"}, {"b": {"a", "c"}, "c": {"b"}}) == {"b"}


def test_ring_edge_that_only_one_end_sees_is_none() -> None:
    views = _full_views(IDS)
    views["b"] = {"a", "c", "d", "e", "aa"}  # b has met aa, which a has not: for b, aa lies between
    assert mixing_edges("a", "ring", {}, views["a"], views) == {"e"}


def test_listed_edges_go_by_names() -> None:
    names = {"a": "anna", "b": "bert", "c": "carl"}
    views = _full_views(["a", "b", "c"])
    assert mixing_edges("a", "edges:anna-bert,bert-carl", names, views["a"], views) == {"b"}


def test_alone_there_are_no_edges() -> None:
    assert mixing_edges("a", "exponential", {}, set(), {}) == frozenset()
