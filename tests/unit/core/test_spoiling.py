"""A block that is out of all proportion is noticed before it is mixed for good."""

from __future__ import annotations

import pytest
import torch

from decad.core.mixing import Mixer
from decad.core.section import Section
from decad.core.spoiling import PARTS, SMALL, Acquaintance, Distances, StepDistances, Watched, reach

N = 4 * SMALL


def spoilers(mine: torch.Tensor, theirs: torch.Tensor, moved: float = 0.01) -> list[str]:
    distances = Distances()
    for chunk in range(2):
        half = slice(chunk * N // 2, (chunk + 1) * N // 2)
        distances.add("n", half.start, theirs[half], mine)
    return distances.spoilers(lambda name: moved)


@pytest.mark.parametrize("factor", [-1.0, 1000.0, 2.5])
def test_a_flipped_or_scaled_block_is_one(factor: float) -> None:
    mine = torch.randn(N)
    assert spoilers(mine, factor * mine) == ["n"]


def test_what_training_can_have_moved_is_none_even_from_zero() -> None:
    moved = 8 * reach(lr=0.01)
    assert spoilers(torch.zeros(N), torch.full((N,), 0.99 * moved), moved) == []
    assert spoilers(torch.zeros(N), torch.full((N,), 1.01 * moved), moved) == ["n"]


def test_a_fine_tuned_block_is_none() -> None:
    mine = torch.randn(N)
    assert spoilers(mine, mine + 0.5 * torch.randn(N)) == []


def test_the_same_block_is_none_even_of_zeros() -> None:
    assert spoilers(torch.zeros(N), torch.zeros(N), moved=0.0) == []


def test_the_distance_is_relative_to_mine() -> None:
    distances = Distances()
    assert distances.relative("n") == -1.0
    distances.add("n", 0, torch.full((N,), 3.0), torch.full((N,), 2.0))
    assert distances.relative("n") == pytest.approx(0.5)


def test_a_step_that_is_taken_back_leaves_my_half_step() -> None:
    mixer = Mixer({Section.BLOCK: torch.zeros(4)}, 4, {Section.BLOCK: torch.ones(4)})
    mixer.add("n", Section.BLOCK, 0, 0.5, torch.full((4,), 1e6))
    mixer.take_back()
    assert mixer.finish()[Section.BLOCK].tolist() == [0.0] * 4


def test_who_was_away_may_be_as_far_as_training_since_then_can_have_moved_both() -> None:
    met = Acquaintance(inner_steps=8)

    def judged(distance: float, trained: int) -> list[str]:
        distances = Distances()
        distances.add("n", 0, torch.full((N,), distance), torch.zeros(N))
        return met.judge(distances, block=3, trained=trained, reach=0.1)

    assert judged(0.9, trained=30) == ["n"]  # more than a phase can do
    assert judged(0.7, trained=30) == []
    assert judged(0.7, trained=31) == ["n"]  # it was near one step ago
    assert judged(0.7, trained=32) == ["n"]  # two
    assert judged(0.7, trained=38) == []


def test_what_spoils_one_section_is_named_for_the_whole_message() -> None:
    watched = {
        Section.BLOCK: Watched(3, lambda step: step + 1, 0.1),
        Section.ADAPTERS: Watched(9, lambda step: step + 1, 0.01),
    }
    distances = StepDistances(watched)
    own = torch.ones(N)
    for name, block, beside in (("a", 1.1, 1.0), ("b", 1.0, 4.0), ("c", 1.0, 1.0)):
        distances.add(Section.BLOCK, name, 0, torch.full((N,), block), own)
        distances.add(Section.ADAPTERS, name, 0, torch.full((N,), beside), own)
        distances.add(Section.SECOND, name, 0, torch.full((N,), 1e9), own)  # which nobody watches
    assert Acquaintance(inner_steps=8).spoilers(5, distances) == ["b"]
    assert distances.furthest == distances.relative("a") == pytest.approx(0.1)
    assert StepDistances(watched).furthest == -1


@pytest.mark.parametrize("part", range(PARTS))
def test_a_large_chunk_is_measured_in_one_part(part: int) -> None:
    distances = Distances(part)
    theirs = torch.ones(N)
    theirs[part * N // PARTS : (part + 1) * N // PARTS] = 3.0
    distances.add("n", 0, theirs, torch.ones(N))
    assert distances.relative("n") == 2.0
