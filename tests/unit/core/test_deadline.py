"""How long a step waits: the formula, and what feeds it."""

from __future__ import annotations

import pytest

from decad.core.deadline import FIRST_PAUSE, HISTORY, LATE_TIMES, SHORTEST, SLOW, Pace, deadline


@pytest.mark.parametrize(
    ("neighbours", "step", "expected"),
    [
        ([], 1.0, 10.0),  # no history
        ([], 0.0, SHORTEST),
        ([[0.0]], 1.0, 0.5),  # half a step beyond the median
        ([[0.0]], 0.1, SHORTEST),
        ([[1.0, 1.0, 1.0]], 1.0, 1.5),
        ([[1.0, 1.2, 0.8]], 1.0, 1.6),  # three deviations beyond
        ([[9.0]], 1.0, 2.0),  # no longer than two steps
        ([[0.0, 0.0, 0.0, 9.0]], 1.0, 0.5),  # late once
        ([[0.0], [0.7], [0.2]], 1.0, 1.2),  # as long as the latest of them needs
    ],
)
def test_the_formula(neighbours: list[list[float]], step: float, expected: float) -> None:
    assert deadline(neighbours, step) == pytest.approx(expected)


def test_the_first_wait_follows_from_my_own_half_step() -> None:
    assert Pace().deadline(0, computed=3.0) == 30.0


def test_a_step_counts_for_its_block() -> None:
    pace = Pace()
    pace.arrived("n", 0.0, 1.0)
    for seconds in (1.0, 4.0, 9.0):
        pace.stepped(0, seconds)
    assert pace.deadline(0, computed=1.0) == 2.0  # half of the median
    assert pace.deadline(1, computed=1.0) == 0.5


def test_a_half_step_longer_than_whole_steps_used_to_be_counts_instead() -> None:
    pace = Pace()
    pace.arrived("n", 0.0, 1.0)
    pace.stepped(0, 1.0)
    assert pace.deadline(0, computed=10.0) == 5.0


def test_an_arrival_before_my_half_step_counts_as_none() -> None:
    pace = Pace()
    pace.arrived("n", -5.0, 1.0)
    assert pace.deadline(0, computed=1.0) == 0.5


def test_old_arrivals_are_forgotten() -> None:
    pace = Pace()
    for _ in range(HISTORY):
        pace.arrived("n", 100.0, 1.0)
    for _ in range(HISTORY):
        pace.arrived("n", 0.0, 1.0)
    assert pace.deadline(0, computed=1.0) == 0.5


def test_who_has_left_is_not_waited_for() -> None:
    pace = Pace()
    pace.arrived("gone", 1.4, 1.0)
    pace.arrived("here", 0.0, 1.0)
    pace.forget("gone")
    assert pace.deadline(0, computed=1.0) == 0.5


def test_a_network_slower_than_the_first_wait_is_learnt() -> None:
    """The half-step takes 1 s, the block 50 s on its way: the wait grows until the block fits into it."""
    pace = Pace()
    waits: list[float] = []
    while not waits or waits[-1] < 50.0:
        waits.append(pace.deadline(0, computed=1.0))
        pace.stepped(0, 1.0 + waits[-1])  # each neighbour was heard, its block was cut short
        pace.arrived("n", 50.0, 1.0)
    assert len(waits) < 6


def test_who_computes_less_than_half_as_fast_is_not_waited_for() -> None:
    pace = Pace()
    pace.arrived("slow", 30.0, SLOW + 0.1)
    pace.arrived("n", 0.0, SLOW)
    assert [pace.slow("slow"), pace.slow("n"), pace.slow("never heard")] == [True, False, False]
    assert pace.deadline(0, computed=1.0) == 0.5


def test_who_was_slow_once_is_waited_for() -> None:
    pace = Pace()
    for slowness in (1.0, 9.0, 1.0):
        pace.arrived("n", 0.0, slowness)
    assert not pace.slow("n")


class TestLateAgainAndAgain:
    @staticmethod
    def late(pace: Pace, neighbours: str, late: str, times: int) -> None:
        for _ in range(times):
            pace.counted(neighbours, late, late)

    def test_it_is_not_waited_for_for_a_while_and_longer_each_time(self) -> None:
        pace = Pace()
        for times in (1, 4):
            self.late(pace, "abc", "b", LATE_TIMES - 1)
            assert not pace.tardy("b")
            self.late(pace, "abc", "b", 1)
            for _ in range(times * FIRST_PAUSE):
                assert pace.tardy("b")
                pace.counted("abc", "", "")
            assert not pace.tardy("b")
        assert not pace.tardy("a")

    def test_its_arrivals_do_not_lengthen_the_wait_then(self) -> None:
        pace = Pace()
        pace.arrived("a", 0.1, 1.0)
        pace.arrived("b", 9.0, 1.0)
        assert pace.deadline(0, computed=1.0) == 2.0
        self.late(pace, "abc", "b", LATE_TIMES)
        assert pace.deadline(0, computed=1.0) == pytest.approx(0.6)

    def test_now_and_then_is_no_fault(self) -> None:
        pace = Pace()
        for _ in range(20):
            self.late(pace, "abc", "b", 1)
            self.late(pace, "abc", "", HISTORY // 2)
        assert not pace.tardy("b")

    @pytest.mark.parametrize(
        ("neighbours", "late"), [("a", "a"), ("ab", "a"), ("abc", "ab"), ("abcd", "abc")]
    )
    def test_unless_two_are_in_time_it_is_nobodys_fault(self, neighbours: str, late: str) -> None:
        pace = Pace()
        self.late(pace, neighbours, late, 10)
        assert not any(map(pace.tardy, neighbours))

    def test_many_who_are_late_have_no_say(self) -> None:
        pace, many = Pace(), "".join(map(chr, range(ord("c"), ord("c") + 40)))
        self.late(pace, "ab" + many, many, LATE_TIMES)
        assert all(map(pace.tardy, many))
        assert not pace.tardy("a")

    def test_coming_back_does_not_help(self) -> None:
        pace = Pace()
        self.late(pace, "abc", "b", LATE_TIMES)
        pace.forget("b")
        assert pace.tardy("b")


def test_who_brings_nothing_whole_is_not_waited_for_until_it_begins() -> None:
    pace = Pace()
    for _ in range(LATE_TIMES):
        assert not pace.slow("n")
        pace.counted("n", "n", "n")
    assert pace.slow("n")
    pace.arrived("n", 0.0, 1.0)
    assert not pace.slow("n")


def test_while_nobody_computes_slow_ones_are_waited_for_longer() -> None:
    pace = Pace()
    for _ in range(5):
        pace.stepped(0, 1.0)
        pace.arrived("n", 0.1, 1.0)
    assert pace.deadline(0, 0.01) == pytest.approx(0.6)
    assert pace.patience(0, 0.01) == pytest.approx(4.0)
    assert pace.patience(1, 0.01) == SHORTEST
