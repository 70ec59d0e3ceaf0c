"""Everything that is a pure function of the global step: which block is trained, at which rate.

Every peer derives (round, block, inner step) from one integer, so nobody coordinates the order
(DECA section 3; BAdam for the visiting orders).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from decad.errors import ConfigError

Order = Literal["descending", "ascending", "shuffled"]


class Position(NamedTuple):
    """Where a step lies. All counts start at 0."""

    step: int
    round: int
    phase: int
    """Index of the block phase since the start of the run: step // R."""
    block: int
    inner: int
    """Inner step r within the phase, 0 <= r < R."""


@dataclass(frozen=True)
class Schedule:
    """Step -> position, for ``blocks`` blocks visited for ``inner_steps`` (R) steps each."""

    blocks: int
    inner_steps: int
    order: Order = "descending"
    seed: int = 0

    @property
    def steps_per_round(self) -> int:
        return self.blocks * self.inner_steps

    def position(self, step: int) -> Position:
        phase, inner = divmod(step, self.inner_steps)
        round_, visit = divmod(phase, self.blocks)
        return Position(step, round_, phase, self._visits(round_)[visit], inner)

    def last_phase(self, block: int, step: int) -> int | None:
        """The latest phase of ``block`` that ended at or before ``step``; None if it had none."""
        phases = step // self.inner_steps
        for round_ in range((phases - 1) // self.blocks if phases else -1, -1, -1):
            phase = round_ * self.blocks + self._visits(round_).index(block)
            if phase < phases:
                return phase
        return None

    def latest_phases(self, step: int) -> dict[int, int]:
        """Block -> the last phase that changed it before ``step``; blocks that none changed yet are absent."""
        latest = {block: self.last_phase(block, step) for block in range(self.blocks)}
        here = self.position(step)
        if here.inner:
            latest[here.block] = here.phase
        return {block: phase for block, phase in latest.items() if phase is not None}

    def _visits(self, round_: int) -> tuple[int, ...]:
        if self.order == "ascending":
            return tuple(range(self.blocks))
        if self.order == "descending":
            return tuple(reversed(range(self.blocks)))
        return _shuffled(self.blocks, self.seed, round_)


@lru_cache(maxsize=64)
def _shuffled(blocks: int, seed: int, round_: int) -> tuple[int, ...]:
    # Sorting by a hash is the same permutation in every version of every language's library.
    def key(block: int) -> bytes:
        return hashlib.sha256(f"decad/{seed}/{round_}/{block}".encode()).digest()

    return tuple(sorted(range(blocks), key=key))


def learning_rate(
    schedule: str, peak: float, inner_steps: int = 1, warmup: float = 0.0
) -> Callable[[int], float]:
    """Parse a schedule and return step -> learning rate.

    ``constant`` | ``linear:HORIZON[:FLOOR]`` | ``cosine:HORIZON[:FLOOR]``; HORIZON in steps, FLOOR the
    share of ``peak`` that remains at the horizon and after it (default 0). ``inner_steps``, ``warmup``: see
    `warmed`. Raises ConfigError.
    """
    kind, end, floor = _parse(schedule)

    def rate(step: int) -> float:
        done = min(step / end, 1.0) if end else 0.0
        left = 1 - done if kind == "linear" else (1 + math.cos(math.pi * done)) / 2
        return peak * (floor + (1 - floor) * left) * warmed(step % inner_steps, inner_steps, warmup)

    return rate


def warmed(inner: int, inner_steps: int, warmup: float) -> float:
    """Factor on the learning rate of step ``inner`` of a phase of ``inner_steps``.

    It rises evenly to 1 over the share ``warmup`` of the phase: Adam's first steps after its moments began anew are
    hardly more than signs of gradients (docs/adr/0014).
    """
    return min(1.0, (inner + 1) / max(1.0, warmup * inner_steps))


def horizon(schedule: str) -> int:
    """Steps until a decaying schedule ends; 0 for one that does not. Raises ConfigError."""
    return _parse(schedule)[1]


def _parse(schedule: str) -> tuple[str, int, float]:
    kind, *rest = schedule.split(":")
    if kind == "constant" and not rest:
        return kind, 0, 1.0
    if kind not in ("linear", "cosine"):
        raise ConfigError(
            f"schedule {schedule!r} is not known. Use constant, linear:HORIZON or cosine:HORIZON, "
            "optionally with a floor, as in linear:1200:0.1."
        )
    if not rest:
        raise ConfigError(
            f"schedule {schedule!r} needs a horizon, since all peers must agree where the rate ends. "
            f"Write {kind}:STEPS, for instance {kind}:1200."
        )
    try:
        end, floor = int(rest[0]), float(rest[1]) if len(rest) == 2 else 0.0
        if len(rest) > 2 or end < 1 or not 0 <= floor <= 1:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"schedule {schedule!r} is malformed. Write {kind}:STEPS or {kind}:STEPS:FLOOR "
            "with STEPS at least 1 and FLOOR between 0 and 1."
        ) from None
    return kind, end, floor
