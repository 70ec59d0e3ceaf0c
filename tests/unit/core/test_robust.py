"""Median and trimmed mean in the place of the weighted mean."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decad.core.mixing import Mixer
from decad.core.robust import Collected, Rule, middle
from decad.core.section import Section

WILD = 1e6


def mixed(rule: Rule, mine: float, heard: list[float]) -> float:
    """One value after mixing."""
    mixer = Mixer({Section.BLOCK: torch.zeros(1)}, 1, {Section.BLOCK: torch.tensor([mine])}, Collected(rule))
    for place, value in enumerate(heard):
        mixer.add(str(place), Section.BLOCK, 0, 0.25, torch.tensor([value]))
    return mine + mixer.finish()[Section.BLOCK].item()


@pytest.mark.parametrize(
    ("rule", "mine", "heard", "expected"),
    [
        ("median", 1.0, [2.0, 9.0], 2.0),
        ("median", 1.0, [2.0, 3.0, 9.0], 2.5),
        ("trimmed", 1.0, [2.0, 9.0], 2.0),
        ("trimmed", 1.0, [2.0, 3.0, 9.0], 2.5),
        ("trimmed", 1.0, [-9.0, 2.0, 3.0, 4.0, 5.0, 9.0, 9.0], 3.5),
        ("median", 1.0, [3.0], 2.0),
        ("trimmed", 1.0, [3.0], 2.0),
        ("median", 1.0, [], 1.0),
    ],
)
def test_by_hand(rule: Rule, mine: float, heard: list[float], expected: float) -> None:
    assert mixed(rule, mine, heard) == pytest.approx(expected)


@given(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=12), st.data())
@pytest.mark.parametrize("rule", ["median", "trimmed"])
def test_a_quarter_that_lies_moves_nobody_out_of_what_the_honest_have(
    rule: Rule, honest: list[float], data: st.DataObject
) -> None:
    count = len(honest) // 3
    liars = [data.draw(st.sampled_from([-WILD, WILD])) for _ in range(count)]
    result = middle(torch.tensor([*honest, *liars])[:, None], rule).item()
    assert min(honest) - 1e-6 <= result <= max(honest) + 1e-6
