from __future__ import annotations

import pytest
import torch

from decad.core.mixing import Mixer, moment_scale
from decad.core.section import Section
from decad.errors import InternalError


def test_the_accumulator_is_the_discrepancy() -> None:
    gradient = torch.tensor([5.0, 5.0, 5.0])
    mixer = Mixer({Section.BLOCK: gradient.zero_()}, 2, {Section.BLOCK: torch.tensor([0.0, 4.0, 4.0])})
    mixer.add("a", Section.BLOCK, 0, 0.25, torch.tensor([4.0, 8.0]))
    mixer.add("a", Section.BLOCK, 1, 0.25, torch.tensor([0.0]))
    d = mixer.finish()
    assert d[Section.BLOCK] is gradient
    assert gradient.tolist() == [1.0, 1.0, -1.0]


def test_a_chunk_that_nobody_sent_has_no_discrepancy() -> None:
    mixer = Mixer({Section.BLOCK: torch.zeros(4)}, 2, {Section.BLOCK: torch.full((4,), 3.0)})
    mixer.add("a", Section.BLOCK, 1, 0.5, torch.tensor([1.0, 1.0]))
    d = mixer.finish()
    assert d[Section.BLOCK].tolist() == [0.0, 0.0, -1.0, -1.0]


def test_a_neighbour_that_dies_in_mid_stream_is_missing_in_the_rest_only() -> None:
    mixer = Mixer({Section.BLOCK: torch.zeros(2)}, 1, {Section.BLOCK: torch.zeros(2)})
    for chunk in (0, 1):
        mixer.add("a", Section.BLOCK, chunk, 0.25, torch.tensor([4.0]))
    mixer.add("b", Section.BLOCK, 0, 0.25, torch.tensor([8.0]))
    assert mixer.finish()[Section.BLOCK].tolist() == [3.0, 1.0]


def test_sections_do_not_share_weights() -> None:
    public = {Section.BLOCK: torch.zeros(1), Section.SECOND: torch.ones(1)}
    mixer = Mixer({Section.BLOCK: torch.zeros(1), Section.SECOND: torch.zeros(1)}, 4, public)
    mixer.add("a", Section.BLOCK, 0, 0.5, torch.tensor([2.0]))
    d = mixer.finish()
    assert (d[Section.BLOCK].item(), d[Section.SECOND].item()) == (1.0, 0.0)


def test_a_chunk_cannot_be_added_twice() -> None:
    mixer = Mixer({Section.BLOCK: torch.zeros(1)}, 1, {Section.BLOCK: torch.zeros(1)})
    mixer.add("a", Section.BLOCK, 0, 0.5, torch.ones(1))
    with pytest.raises(InternalError, match="a added chunk 0 of BLOCK twice"):
        mixer.add("a", Section.BLOCK, 0, 0.5, torch.ones(1))


def test_values_without_an_estimate_count_as_missing() -> None:
    mixer = Mixer({Section.SECOND: torch.zeros(1)}, 1, {Section.SECOND: torch.ones(1)})
    mixer.add("joiner", Section.SECOND, 0, 0.5, torch.zeros(1), scale=0.0)
    assert mixer.finish()[Section.SECOND].item() == 0.0


@pytest.mark.parametrize("section", Section)
@pytest.mark.parametrize("updates", [0, 1, 20])
def test_equal_update_counts_leave_the_published_equation(section: Section, updates: int) -> None:
    assert moment_scale(section, 0.9, 0.999, updates, updates) == 1.0


def test_unequal_update_counts_compare_bias_corrected_moments() -> None:
    assert moment_scale(Section.FIRST, 0.9, 0.999, 1, 20) == pytest.approx(0.1 / (1 - 0.9**20))
    assert moment_scale(Section.SECOND, 0.9, 0.999, 20, 1) == pytest.approx((1 - 0.999**20) / 0.001)
    assert moment_scale(Section.BLOCK, 0.9, 0.999, 20, 1) == 1.0


def test_a_peer_without_updates_has_no_estimate() -> None:
    assert moment_scale(Section.SECOND, 0.9, 0.999, 5, 0) == 0.0
    assert moment_scale(Section.SECOND, 0.9, 0.999, 0, 5) == 0.0
