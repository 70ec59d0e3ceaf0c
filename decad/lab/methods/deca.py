"""DECA: block after block, mixed after every step (arXiv 2606.03209)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from decad.config import RunSpec
from decad.core.moments import moment_rule
from decad.daemon.phase import TrainingRule
from decad.errors import ConfigError
from decad.lab.methods.base import Method


@dataclass(frozen=True)
class Deca(Method):
    """As the daemon trains; ``moments`` of the run spec is the moment rule."""

    unit: str = "gradient"
    """Of the signal: gradient, or parameter, which is the rule as it is printed."""
    sign: int = 1
    """Of the printed signal: 1 as printed, -1 turned."""
    every: int = 1
    """Steps between exchanges. A daemon mixes after every step."""

    checks: bool = True
    """Whether values out of all proportion are refused. A daemon always does."""

    def rule(self, spec: RunSpec) -> TrainingRule:
        made = TrainingRule(spec)
        if self.sign not in (1, -1):
            raise ConfigError(f"method deca: sign is 1 or -1, not {self.sign}.")
        sign: Literal[1, -1] = 1 if self.sign == 1 else -1
        made.moments = moment_rule(spec.moments, unit=self.unit, sign=sign)
        return made

    def mixes(self, step: int) -> bool:
        return (step + 1) % self.every == 0

    def checked(self) -> bool:
        return self.checks
