"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from decad.lab.curves import ACCURACY, LOSS, Metric, Statistic
from decad.lab.figures import duration, figure, score_text, size, table


@pytest.mark.parametrize(
    ("mean", "std", "metric", "told"),
    [
        (2.03449, None, LOSS, "2.034"),
        (0.12345, None, LOSS, "0.1235"),
        (2.0344, 0.0041, LOSS, "2.034 ± 0.004"),
        (2.0344, 0.0003, LOSS, "2.0344 ± 0.0003"),
        (2.0344, 0.0, LOSS, "2.034 ± 0.000"),
        (81.27, 0.43, ACCURACY, "81.3 ± 0.4 %"),
        (math.nan, None, LOSS, "diverged"),
        (math.inf, 1.0, LOSS, "diverged"),
    ],
)
def test_a_score(mean: float, std: float | None, metric: Metric, told: str) -> None:
    assert score_text(Statistic(mean, std, 3), metric) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "0"),
        (7, "7"),
        (12345.6, "12,346"),
        (18.66, "18.7"),
        (0.02114, "0.0211"),
        (3.56e-10, "3.56e-10"),
        (math.nan, "diverged"),
    ],
)
def test_a_figure(value: float, told: str) -> None:
    assert figure(value) == told


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 B"), (1536, "1.50 KiB"), (2**31, "2 GiB"), (2**42, "4,096 GiB")]
)
def test_a_size(count: float, told: str) -> None:
    assert size(count) == told


@pytest.mark.parametrize(("seconds", "told"), [(3.21, "3.21 s"), (150, "2 min"), (7260, "2 h 01 min")])
def test_a_duration(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_a_table_is_in_columns_and_a_bar_in_a_cell_does_not_divide_it() -> None:
    assert table(["method", "x"], [["a|b", "1"], ["c", "22"]]).splitlines() == [
        "| method |   x |",
        "|--------|----:|",
        "| a\\|b   |   1 |",
        "| c      |  22 |",
    ]
