"""What differs from peer to peer: a distribution written as text, and draws from it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from decad.errors import ConfigError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Distribution:
    """``kind``: constant | uniform | lognormal | measured; what ``values`` are depends on it."""

    kind: str
    values: tuple[float, ...]

    def draw(self, count: int, chance: np.random.Generator) -> Floats:
        """fp64 [count], independent; measured values are drawn with replacement."""
        if self.kind == "constant":
            return np.full(count, self.values[0])
        if self.kind == "uniform":
            low, high = self.values
            return chance.uniform(low, high, count)
        if self.kind == "lognormal":
            middle, sigma = self.values
            return middle * np.exp(sigma * chance.standard_normal(count))
        return chance.choice(np.array(self.values), count)

    def times(self, factor: float) -> Distribution:
        """The same in another unit."""
        scaled = tuple(value * factor for value in self.values)
        return replace(self, values=(scaled[0], self.values[1]) if self.kind == "lognormal" else scaled)


def parse_distribution(text: str) -> Distribution:
    """X | constant:X | uniform:LOW:HIGH | lognormal:MEDIAN:SIGMA (of the logarithm) | @FILE.

    FILE: a JSON list of numbers, or CSV whose first column holds them, with or without a title. Raises ConfigError
    for anything else, and for values that are negative.
    """
    if text.startswith("@"):
        return Distribution("measured", _checked(text, _measured(Path(text[1:]))))
    kind, _, rest = text.partition(":") if ":" in text else ("constant", "", text)
    if kind not in ("constant", "uniform", "lognormal"):
        raise ConfigError(_unknown(text))
    try:
        values = _checked(text, [float(part) for part in rest.split(":")])
    except ValueError:
        raise ConfigError(_unknown(text)) from None
    if len(values) != (1 if kind == "constant" else 2) or (kind == "uniform" and values[0] > values[1]):
        raise ConfigError(_unknown(text))
    return Distribution(kind, values)


def _unknown(text: str) -> str:
    return f"{text!r} is not a distribution. Write X, uniform:LOW:HIGH, lognormal:MEDIAN:SIGMA or @FILE."


def _checked(text: str, values: Sequence[float]) -> tuple[float, ...]:
    if not values or not all(isfinite(value) and value >= 0 for value in values):
        raise ConfigError(f"{text!r} holds no values, or some that are negative or not finite.")
    return tuple(values)


def _measured(file: Path) -> list[float]:
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            return [float(value) for value in json.loads(text)]
        rows = [row[0] for row in csv.reader(text.splitlines()) if row]
        return [float(value) for place, value in enumerate(rows) if place or _is_number(value)]
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError):
        raise ConfigError(
            f"{file} is neither a JSON list of numbers nor CSV with numbers in its first column."
        ) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
