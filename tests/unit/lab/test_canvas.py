"""Names beside the ends of lines stand apart, in their order."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decad.lab import canvas


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.2))
def test_names_are_moved_apart_in_their_order(wanted: list[float], gap: float) -> None:
    found = canvas.spread(wanted, gap)
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    assert all(found[b] - found[a] >= gap - 1e-9 for a, b in pairwise(order))
    assert sum(found) == pytest.approx(sum(wanted))


def test_names_that_are_far_enough_apart_stay() -> None:
    assert canvas.spread([0.5, 0.1, 0.9], 0.2) == [0.5, 0.1, 0.9]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_names_stay_in_the_frame_where_they_fit(wanted: list[float]) -> None:
    gap = 1 / 12
    apart = canvas.spread(wanted, gap)
    found = canvas.inside(apart, gap)
    order = sorted(range(len(wanted)), key=lambda place: apart[place])
    assert min(found) >= -1e-9
    assert max(found) <= 1 + 1e-9
    assert all(found[b] - found[a] >= gap - 1e-9 for a, b in pairwise(order))


def test_names_that_are_in_the_frame_stay() -> None:
    assert canvas.inside([0.5, 0.0, 1.0], 0.2) == [0.5, 0.0, 1.0]
