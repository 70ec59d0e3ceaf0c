from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from decad.errors import ConfigError
from decad.lab.distributions import parse_distribution


def drawn(text: str, count: int = 10_000) -> np.ndarray:
    return parse_distribution(text).draw(count, np.random.default_rng(0))


def test_a_number_is_a_constant() -> None:
    assert drawn("2.5", 2).tolist() == drawn("constant:2.5", 2).tolist() == [2.5, 2.5]


def test_uniform_values_lie_between_the_ends() -> None:
    values = drawn("uniform:2:3")
    assert 2 <= values.min() < 2.01 < 2.99 < values.max() <= 3


def test_lognormal_is_given_by_its_median() -> None:
    values = drawn("lognormal:5:0.5")
    assert np.median(values) == pytest.approx(5, rel=0.03)
    assert np.log(values).std() == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize(
    ("name", "text"),
    [("m.json", "[1, 2.5, 4]"), ("m.csv", "seconds,peer\n1,a\n2.5,b\n\n4,c\n"), ("m.txt", "1\n2.5\n4")],
)
def test_measured_values_are_drawn_from(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert set(drawn(f"@{tmp_path / name}").tolist()) == {1.0, 2.5, 4.0}


@pytest.mark.parametrize("text", ["lognormal:5:0.5", "uniform:2:3", "4"])
def test_another_unit(text: str) -> None:
    other = parse_distribution(text).times(8).draw(5, np.random.default_rng(0))
    assert other.tolist() == pytest.approx((8 * drawn(text, 5)).tolist())


@pytest.mark.parametrize(
    "text", ["", "fast", "uniform:3", "uniform:3:2", "lognormal:1", "normal:1:1", "-1", "nan"]
)
def test_nonsense_is_the_operators_to_mend(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a distribution|holds no values"):
        parse_distribution(text)


@pytest.mark.parametrize(("name", "text"), [("m.json", '{"a": 1}'), ("m.csv", "a\nb\n"), ("m.csv", "")])
def test_a_file_without_numbers_is_the_operators_to_mend(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        parse_distribution(f"@{tmp_path / name}")
