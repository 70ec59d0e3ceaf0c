from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.peers import Peers, one_block

from decad.core.constants import AdamConstants
from decad.core.mixing import Mixer, moment_scale
from decad.core.moments import moment_rule
from decad.core.overlay import edge_weight, neighbours
from decad.core.section import Section

overlays = st.sampled_from(
    ["full", "ring", "line", "exponential", "random:2", "erdos:0.3", "edges:0-1,1-2,1-3,3-4"]
)


@settings(deadline=None, max_examples=50)
@given(overlays, st.sampled_from(["fp32", "bf16-delta"]), st.integers(2, 9), st.integers(0, 2**31))
def test_mixing_keeps_the_average_and_shrinks_the_disagreement(
    overlay: str, encoding: str, peers: int, seed: int
) -> None:
    thetas = torch.rand(peers, 12, generator=torch.Generator().manual_seed(seed))
    network = Peers(
        list(thetas),
        one_block((3, 4)),
        moment_rule("none"),
        AdamConstants(),
        overlay=overlay,
        encoding=encoding,
    )
    average, distance = network.average, float((thetas - network.average).norm())
    for _ in range(3):
        network.mix(lr=0.1)
    assert torch.allclose(network.average, average, atol=1e-6)
    assert float((torch.stack(network.thetas) - average).norm()) <= distance * 1.01


@settings(deadline=None, max_examples=50)
@given(overlays, st.integers(2, 9), st.data())
def test_a_link_that_is_cut_for_both_ends_keeps_the_average(
    overlay: str, peers: int, data: st.DataObject
) -> None:
    ids = [str(i) for i in range(peers)]
    values = {i: torch.rand(5, generator=torch.Generator().manual_seed(int(i))) for i in ids}
    near = {i: neighbours(overlay, ids, i) for i in ids}
    edges = sorted((i, j) for i in ids for j in near[i] if i < j)
    cut = data.draw(st.sets(st.tuples(st.sampled_from(edges), st.integers(0, 2))))
    drift = torch.zeros(5)
    for i in ids:
        mixer = Mixer({Section.BLOCK: torch.zeros(5)}, 2, {Section.BLOCK: values[i]})
        for j in sorted(near[i]):
            for chunk in range(3):
                if ((min(i, j), max(i, j)), chunk) not in cut:
                    weight = edge_weight(overlay, len(near[i]), len(near[j]))
                    mixer.add(j, Section.BLOCK, chunk, weight, values[j][2 * chunk : 2 * chunk + 2])
        drift += mixer.finish()[Section.BLOCK]
    assert float(drift.abs().max()) < 1e-5


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(Section), st.floats(0, 0.9999), st.integers(1, 2**32), st.integers(1, 2**32))
def test_moment_scales_of_the_two_ends_are_inverse(
    section: Section, decay: float, one: int, other: int
) -> None:
    there, back = (moment_scale(section, decay, decay, *pair) for pair in ((one, other), (other, one)))
    assert abs(there * back - 1) < 1e-9
