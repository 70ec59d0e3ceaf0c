from __future__ import annotations

import pytest

from decad.core.schedule import (
    Order,
    Position,
    Schedule,
    earliest,
    horizon,
    last_step,
    learning_rate,
    training_end,
)
from decad.errors import ConfigError


@pytest.mark.parametrize(
    ("order", "visits"), [("descending", [2, 1, 0, 2, 1, 0]), ("ascending", [0, 1, 2, 0, 1, 2])]
)
def test_rounds_repeat_the_order(order: Order, visits: list[int]) -> None:
    schedule = Schedule(blocks=3, inner_steps=2, order=order)
    assert [schedule.position(step).block for step in range(0, 12, 2)] == visits


def test_position_counts_from_zero() -> None:
    assert Schedule(blocks=3, inner_steps=2).position(9) == Position(
        step=9, round=1, phase=4, block=1, inner=1
    )


def test_shuffled_rounds_are_the_same_on_every_machine() -> None:
    schedule = Schedule(blocks=6, inner_steps=1, order="shuffled", seed=7)
    rounds = [[schedule.position(6 * r + k).block for k in range(6)] for r in range(2)]
    assert rounds == [[2, 3, 0, 5, 1, 4], [1, 5, 3, 0, 4, 2]]


def test_another_seed_shuffles_otherwise() -> None:
    orders = {
        tuple(Schedule(6, 1, "shuffled", seed).position(step).block for step in range(6)) for seed in range(5)
    }
    assert len(orders) > 1


def test_last_phase_counts_a_phase_that_ends_with_the_step() -> None:
    schedule = Schedule(blocks=2, inner_steps=3)  # block 1 in steps 0-2, block 0 in 3-5
    assert [schedule.last_phase(1, step) for step in (0, 2, 3, 8, 9)] == [None, None, 0, 0, 2]


@pytest.mark.parametrize(
    ("wanted", "end", "settle", "last"),
    [
        (0, 0, 4, 0),
        (7, 0, 4, 7),
        (7, 10, 4, 7),
        (10, 10, 4, 18),
        (99, 10, 4, 18),
        (0, 10, 4, 18),
        (12, 10, 0, 12),
    ],
)
def test_who_stays_to_the_end_settles_too(wanted: int, end: int, settle: int, last: int) -> None:
    assert last_step(wanted, Schedule(blocks=2, inner_steps=3, end=end, settle=settle)) == last


@pytest.mark.parametrize(
    ("schedule", "end"), [("constant", 0), ("linear:10", 10), ("cosine:10:0.0", 10), ("linear:10:0.1", 0)]
)
def test_training_ends_where_the_rate_comes_to_zero(schedule: str, end: int) -> None:
    assert training_end(schedule) == end


def test_no_end_is_later_than_any() -> None:
    assert [earliest(), earliest(0, 0), earliest(0, 7), earliest(7, 0), earliest(7, 5)] == [0, 0, 7, 7, 5]


def test_constant_rate() -> None:
    assert learning_rate("constant", 0.5)(10**9) == 0.5


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear:10", [1.0, 0.5, 0.0, 0.0]),
        ("linear:10:0.2", [1.0, 0.6, 0.2, 0.2]),
        ("cosine:10", [1.0, 0.5, 0.0, 0.0]),
        ("cosine:10:0.2", [1.0, 0.6, 0.2, 0.2]),
    ],
)
def test_rates_at_start_middle_horizon_and_after(schedule: str, expected: list[float]) -> None:
    rate = learning_rate(schedule, 1.0)
    assert [rate(step) for step in (0, 5, 10, 25)] == pytest.approx(expected)


def test_the_rate_rises_at_the_beginning_of_each_phase() -> None:
    rate = learning_rate("linear:10", 1.0, inner_steps=5, warmup=0.8)
    assert [rate(step) for step in range(10)] == pytest.approx(
        [0.25, 0.45, 0.6, 0.7, 0.6, 0.125, 0.2, 0.225, 0.2, 0.1]
    )


@pytest.mark.parametrize(("inner_steps", "warmup"), [(20, 0.0), (20, 0.05), (1, 1.0), (3, 0.25)])
def test_with_a_step_of_warmup_at_most_the_rate_is_there_at_once(inner_steps: int, warmup: float) -> None:
    rate = learning_rate("constant", 0.5, inner_steps, warmup)
    assert {rate(step) for step in range(50)} == {0.5}


@pytest.mark.parametrize(("schedule", "end"), [("constant", 0), ("linear:1200", 1200), ("cosine:7:0.1", 7)])
def test_the_horizon_is_where_a_decay_ends(schedule: str, end: int) -> None:
    assert horizon(schedule) == end


@pytest.mark.parametrize(
    ("schedule", "complaint"),
    [
        ("linear", "needs a horizon"),
        ("step:10", "is not known"),
        ("constant:10", "is not known"),
        ("linear:0", "malformed"),
        ("linear:ten", "malformed"),
        ("linear:10:2", "malformed"),
        ("cosine:10:0.1:3", "malformed"),
    ],
)
def test_a_bad_schedule_says_what_to_write(schedule: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        learning_rate(schedule, 1.0)
