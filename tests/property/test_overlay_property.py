from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decad.core.overlay import graph, mixing_matrix, neighbours

named = st.sampled_from(
    ["full", "ring", "line", "exponential", "random:1", "random:2", "random:4", "erdos:0.1", "erdos:0.5"]
)
members = st.sets(st.text("0123456789abcdef", min_size=3, max_size=6), min_size=1, max_size=20)


@st.composite
def edge_lists(draw: st.DrawFn) -> tuple[str, set[str]]:
    """Any edges between ids and prefixes of them, some answered by nobody or by several."""
    ids = draw(members)
    end = st.sampled_from(sorted(ids)).flatmap(lambda peer: st.integers(1, len(peer)).map(lambda n: peer[:n]))
    edges = draw(st.lists(st.tuples(end | st.just("nobody"), end), min_size=1, max_size=30))
    return "edges:" + ",".join(f"{a}-{b}" for a, b in edges), ids


graphs = st.tuples(named, members) | edge_lists()


@settings(deadline=None, max_examples=50)
@given(graphs)
def test_the_neighbour_relation_is_symmetric(graph: tuple[str, set[str]]) -> None:
    overlay, ids = graph
    near = {me: neighbours(overlay, ids, me) for me in ids}
    assert all(me in near[other] for me in ids for other in near[me])
    assert all(me not in near[me] and near[me] <= ids for me in ids)


@settings(deadline=None, max_examples=50)
@given(graphs)
def test_the_graph_is_everybodys_neighbours(graph_: tuple[str, set[str]]) -> None:
    overlay, ids = graph_
    assert graph(overlay, ids) == {me: neighbours(overlay, ids, me) for me in ids}


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 5), members, st.text("0123456789abcdef", min_size=7, max_size=7))
def test_on_random_rings_a_join_or_leave_changes_three_edges_a_ring_at_most(
    rings: int, ids: set[str], newcomer: str
) -> None:
    before, after = edges(f"random:{rings}", ids), edges(f"random:{rings}", ids | {newcomer})
    assert len(before ^ after) <= 3 * rings


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5), members)
def test_on_random_rings_nobody_has_more_than_two_neighbours_a_ring(rings: int, ids: set[str]) -> None:
    assert max(map(len, graph(f"random:{rings}", ids).values())) <= 2 * rings


@settings(deadline=None, max_examples=50)
@given(named, members)
def test_named_overlays_are_connected(overlay: str, ids: set[str]) -> None:
    reached, frontier = set[str](), {min(ids)}
    while frontier:
        reached |= frontier
        frontier = {other for me in frontier for other in neighbours(overlay, ids, me)} - reached
    assert reached == ids


@settings(deadline=None, max_examples=50)
@given(graphs)
def test_weights_are_symmetric_and_doubly_stochastic(graph: tuple[str, set[str]]) -> None:
    weights = mixing_matrix(*graph)
    assert torch.equal(weights, weights.T)
    assert torch.allclose(weights.sum(dim=0), torch.ones(len(graph[1]), dtype=torch.float64))
    assert bool((weights > -1e-12).all())


@settings(deadline=None, max_examples=50)
@given(graphs)
def test_no_eigenvalue_of_i_minus_w_exceeds_16_off_full(graph: tuple[str, set[str]]) -> None:
    largest = float(1 - torch.linalg.eigvalsh(mixing_matrix(*graph))[0])
    assert largest <= (1.0 if graph[0] == "full" else 1.6) + 1e-9


def edges(overlay: str, ids: set[str]) -> set[frozenset[str]]:
    return {frozenset((me, other)) for me, near in graph(overlay, ids).items() for other in near}
