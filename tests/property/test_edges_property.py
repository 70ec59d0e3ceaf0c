"""Whatever the views of the peers, no peer waits for another that does not wait for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from decad.membership.edges import mixing_edges

IDS = "abcdefg"
OVERLAYS = st.sampled_from(["full", "ring", "exponential", "edges:a-b,b-c,c-g,a-g"])
VIEWS = st.fixed_dictionaries({peer: st.frozensets(st.sampled_from(IDS.replace(peer, ""))) for peer in IDS})


@given(OVERLAYS, VIEWS)
def test_edges_have_two_ends(overlay: str, views: dict[str, frozenset[str]]) -> None:
    edges = {
        me: mixing_edges(me, overlay, {}, views[me], {p: views[p] for p in IDS if p != me}) for me in IDS
    }
    for me, others in edges.items():
        assert me not in others
        for other in others:
            assert me in edges[other], (me, other)
