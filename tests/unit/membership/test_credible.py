"""How far a claimed step is believed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from decad.core.constants import MAX_STEP
from decad.membership.credible import (
    ALONE_TIMES_FASTER,
    AWAY_S,
    TIMES_FASTER,
    LoneLeaders,
    StepBound,
    reached_by_half,
    reached_by_most,
    reached_by_two,
)

STEPS = st.lists(st.integers(0, 10**6), min_size=1, max_size=20)


@given(STEPS, st.integers(0, 2**64 - 1))
def test_one_of_three_or_more_moves_nobody(honest: list[int], claim: int) -> None:
    if len(honest) >= 2:
        assert reached_by_half([*honest, claim]) <= max(honest)
        assert min(honest) <= reached_by_most([*honest, claim]) <= max(honest)


@given(STEPS)
def test_where_all_are_is_believed(steps: list[int]) -> None:
    assert reached_by_most([7] * len(steps)) == 7
    assert reached_by_half([7] * (len(steps) + 1)) == 7


def test_of_two_peers_one_has_no_half() -> None:
    assert reached_by_half([100]) == -1
    assert reached_by_half([]) == -1


@given(st.integers(0, 10**9), st.integers(1, 1000), st.floats(1e-4, 100), st.floats(0, 1e6))
def test_time_allows_so_much(step: int, slack: int, own: float, elapsed: float) -> None:
    bound = StepBound(step, slack, 0.0)
    assert bound.most(0.0) <= step + slack + 1
    bound.took(own)
    most = bound.most(elapsed)
    assert most >= min(MAX_STEP, step + slack + int(elapsed / own))
    assert most <= step + slack + TIMES_FASTER * (elapsed + 1) / own + 1


def test_after_a_jump_that_the_others_vouched_for_time_counts_from_there() -> None:
    bound = StepBound(0, 20, 0.0)
    bound.took(1.0)
    bound.jumped(10_000, 1.0)
    assert 10_020 <= bound.most(1.0) < 10_100
    bound.jumped(10_021, 2.0)
    assert bound.most(2.0) >= 10_020 + TIMES_FASTER, "a step within the bound moves it no further"


def test_two_are_needed_for_two() -> None:
    assert reached_by_two([7]) == -1
    assert reached_by_two([7, 900, 8]) == 8


class TestOneAlone:
    def test_a_stranger_that_is_ahead_is_not_followed(self) -> None:
        assert not LoneLeaders().explained("p", 1, now=1e6, step_s=1.0)

    def test_who_was_away_is_followed_as_far_as_that_explains(self) -> None:
        lone = LoneLeaders()
        lone.seen("p", 1, now=0.0)
        lone.seen("p", 50, now=10.0)
        assert not lone.explained("p", 5, now=AWAY_S - 1, step_s=1.0)
        assert lone.explained("p", int(ALONE_TIMES_FASTER * AWAY_S), now=AWAY_S, step_s=1.0)
        assert not lone.explained("p", int(ALONE_TIMES_FASTER * AWAY_S) + 1, now=AWAY_S, step_s=1.0)

    def test_again_and_again_only_after_longer_and_longer(self) -> None:
        lone, now = LoneLeaders(), 0.0
        for times in (1, 2, 4):
            lone.seen("p", 0, now)
            assert not lone.explained("p", 2, now + times * AWAY_S - 1, step_s=1.0)
            now += times * AWAY_S
            assert lone.explained("p", 2, now, step_s=1.0)
            lone.followed("p")
