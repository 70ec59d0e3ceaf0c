"""Between evaluations, a straight line; beyond them, nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decad.lab.curves import Curve, band, statistic, value_at

POINTS = st.lists(
    st.tuples(st.integers(0, 10_000), st.floats(-100, 100)), min_size=2, max_size=20, unique_by=lambda p: p[0]
).map(lambda points: curve(*sorted(points)))


def curve(*points: tuple[float, float]) -> Curve:
    return Curve(*(np.array(part, dtype=np.float64) for part in zip(*points, strict=True)))


@given(POINTS)
def test_at_an_evaluation_it_is_what_was_measured(made: Curve) -> None:
    assert [value_at(made, x) for x in made.x] == list(made.y)


@given(POINTS, st.data())
def test_between_two_evaluations_it_goes_from_one_to_the_other_without_turning(
    made: Curve, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(made.x) - 2))
    between = st.floats(made.x[place], made.x[place + 1])
    near, far = sorted((data.draw(between), data.draw(between)))
    values = [value_at(made, x) for x in (made.x[place], near, far, made.x[place + 1])]
    steps = np.diff(np.array(values)) * np.sign(made.y[place + 1] - made.y[place])
    assert (steps >= -1e-9).all()


@given(POINTS, st.floats(0.001, 1000))
def test_nothing_is_extrapolated(made: Curve, beyond: float) -> None:
    assert value_at(made, made.x[0] - beyond) is None
    assert value_at(made, made.x[-1] + beyond) is None


def test_halfway_is_the_mean() -> None:
    assert value_at(curve((0, 1), (10, 3)), 5) == 2


def test_of_evaluations_at_the_same_cost_the_last_counts() -> None:
    assert value_at(curve((0, 3), (0, 2), (0, 1)), 0) == 1


def test_a_run_without_evaluations_reaches_nothing() -> None:
    assert value_at(Curve(np.empty(0), np.empty(0)), 0) is None


def test_the_deviation_is_that_of_a_sample() -> None:
    assert statistic([1.0, 3.0]) == pytest.approx((2, 2**0.5, 2))


def test_a_single_run_has_no_deviation() -> None:
    assert statistic([1.0]) == (1.0, None, 1)


def test_a_band_reaches_from_where_all_have_begun_to_where_the_first_ends() -> None:
    made = band([curve((0, 4), (4, 0)), curve((1, 5), (3, 3), (9, 3))])
    assert made is not None
    assert list(made.x) == [1, 3, 4]
    assert list(made.mean) == [4, 2, 1.5]
    assert made.std is not None
    assert made.std == pytest.approx(np.array([2, 2, 3]) / 2**0.5)


def test_runs_that_have_nothing_in_common_have_no_band() -> None:
    assert band([curve((0, 1), (1, 1)), curve((2, 1), (3, 1))]) is None
