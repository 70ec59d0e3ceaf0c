"""How far a run has read its data: one number, kept in the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class DataPosition:
    """Where the next batch begins."""

    consumed: int = 0
    """Training sequences used since the run began, all epochs together."""

    def to_dict(self) -> dict[str, int]:
        return {"consumed": self.consumed}

    @classmethod
    def from_dict(cls, record: Mapping[str, int]) -> DataPosition:
        return cls(consumed=record["consumed"])
