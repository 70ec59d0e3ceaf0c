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


class _Visit(NamedTuple):
    round: int
    phase: int
    block: int


@dataclass(frozen=True)
class Schedule:
    """Step -> position, for ``blocks`` blocks visited for ``inner_steps`` (R) steps each.

    A run may have an end. From that step on blocks are mixed and no longer trained, ``settle`` steps each, and after
    one round of it the run is over.
    """

    blocks: int
    inner_steps: int
    order: Order = "descending"
    seed: int = 0
    end: int = 0
    """The first step in which nothing is trained; 0: there is none."""
    settle: int = 0
    """Steps of a phase from the end on; 0: whatever ``end`` is, blocks are trained for ever."""

    @property
    def steps_per_round(self) -> int:
        return self.blocks * self.inner_steps

    @property
    def over(self) -> int:
        """The step before which everything is done; 0: there is none."""
        return self.end + self.blocks * self.settle if self._ends else 0

    def settles(self, step: int) -> bool:
        """Whether blocks are mixed in ``step`` without being trained."""
        return self._ends and step >= self.end

    def position(self, step: int) -> Position:
        if self.settles(step):
            further, inner = divmod(step - self.end, self.settle)
            phase = self._trained_phases + further
        else:
            phase, inner = divmod(step, self.inner_steps)
        return Position(step, *self._visit(phase), inner)

    def steps_of(self, phase: int) -> range:
        """The steps of a phase. The last one before the end may be short."""
        if self._ends and phase >= self._trained_phases:
            first = self.end + (phase - self._trained_phases) * self.settle
            return range(first, first + self.settle)
        first = phase * self.inner_steps
        stop = first + self.inner_steps
        return range(first, min(stop, self.end) if self._ends else stop)

    def last_phase(self, block: int, step: int) -> int | None:
        """The latest phase of ``block`` that ended at or before ``step``; None if it had none."""
        phases = self.position(step).phase
        # The round before the end may lack some blocks, and each order is another: three rounds have all of them.
        for phase in range(phases - 1, max(-1, phases - 1 - 3 * self.blocks), -1):
            if self._visit(phase).block == block:
                return phase
        return None

    def latest_phases(self, step: int) -> dict[int, int]:
        """Block -> the last phase that changed it before ``step``; blocks that none changed yet are absent."""
        here, latest = self.position(step), dict[int, int]()
        phase = here.phase if here.inner else here.phase - 1
        while phase >= 0 and len(latest) < self.blocks:
            latest.setdefault(self._visit(phase).block, phase)
            phase -= 1
        return latest

    @property
    def _ends(self) -> bool:
        return self.end > 0 and self.settle > 0

    @property
    def _trained_phases(self) -> int:
        return -(-self.end // self.inner_steps)

    def _visit(self, phase: int) -> _Visit:
        begun = self._trained_phases if self._ends and phase >= self._trained_phases else 0
        before = -(-begun // self.blocks)  # settling begins a round of its own
        round_, visit = divmod(phase - begun, self.blocks)
        return _Visit(before + round_, phase, self._visits(before + round_)[visit])

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


def last_step(wanted: int, schedule: Schedule) -> int:
    """Before which step a peer is done that was to take ``wanted`` steps, 0 for no end of its own; 0: never.

    Who stays until the end of the training settles too.
    """
    if wanted and (not schedule.over or wanted < schedule.end):
        return wanted
    return schedule.over


def earliest(*ends: int) -> int:
    """The first of some ends, of which 0 is none; 0 if there is none."""
    return min(filter(None, ends), default=0)


def training_end(schedule: str) -> int:
    """The step from which a schedule trains nothing any more; 0 for one that goes on. Raises ConfigError."""
    _, end, floor = _parse(schedule)
    return end if floor == 0 else 0


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
