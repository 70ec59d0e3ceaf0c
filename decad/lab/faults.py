"""Who is away or late at which step: written down, or drawn from the run's seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decad.core.keyed import keyed_bits
from decad.errors import ConfigError

FORMS = "away:NAME:FROM:TO, late:NAME:FROM:TO, random-away:RATE:STEPS or random-late:RATE"


class Faults:
    """``rules``: steps from FROM to TO - 1.

    ``away``: the peer takes no steps, and on its return what it missed from a neighbour; away from step 0 it joins
    late. ``late``: it trains, but its messages miss the others' deadline and theirs do not reach it. ``random-away``:
    each peer with this probability, drawn anew every STEPS steps; ``random-late``: drawn every step.
    Raises ConfigError.
    """

    def __init__(self, rules: Sequence[str], names: Sequence[str], seed: int) -> None:
        self._names, self._seed = tuple(names), seed
        self._spans: list[tuple[str, str, int, int]] = []
        self._draws: list[tuple[str, float, int]] = []
        for rule in rules:
            self._add(rule)

    def away(self, step: int) -> frozenset[str]:
        return self._of("away", step)

    def late(self, step: int) -> frozenset[str]:
        return self._of("late", step)

    def _of(self, what: str, step: int) -> frozenset[str]:
        found = {name for kind, name, start, stop in self._spans if kind == what and start <= step < stop}
        for kind, rate, steps in self._draws:
            if kind == what:
                random = np.random.Generator(keyed_bits(f"faults/{kind}", self._seed, step // steps))
                draws = random.random(len(self._names))
                found |= {name for name, draw in zip(self._names, draws, strict=True) if draw < rate}
        return frozenset(found)

    def _add(self, rule: str) -> None:
        kind, *parts = rule.split(":")
        try:
            if kind in ("away", "late"):
                name, start, stop = parts
                if name not in self._names:
                    raise ConfigError(f"faults: {rule!r} names no peer. There are {', '.join(self._names)}.")
                self._spans.append((kind, name, int(start), int(stop)))
                return
            what = kind.removeprefix("random-")
            rate, steps = (float(parts[0]), int(parts[1]) if what == "away" else 1)
            if kind not in ("random-away", "random-late") or not 0 <= rate <= 1 or steps < 1:
                raise ValueError
            self._draws.append((what, rate, steps))
        except (ValueError, IndexError):
            raise ConfigError(f"faults: {rule!r} is not understood. Write {FORMS}.") from None
