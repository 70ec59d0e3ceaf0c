"""What the tests of faults record: one row a fault, as JSON and as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Self

COLUMNS = ("fault", "injected", "noticed after", "gone after", "recovered after", "lost")


@dataclass
class Row:
    """One fault. Times in seconds, one an injection; empty where nothing was measured."""

    fault: str
    injected: int = 0
    noticed_s: list[float] = field(default_factory=list)
    """From the fault until the last of the others went on without who was hit, or suspected it."""
    gone_s: list[float] = field(default_factory=list)
    """From the fault until the last of the others held it for gone."""
    recovered_s: list[float] = field(default_factory=list)
    """From the end of the fault (the peer's new start, the healed cable, the freed disk) until all mix with all."""
    lost: list[str] = field(default_factory=list)
    """What should never be: a line each."""

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        return cls(**plain)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def cells(self) -> tuple[str, ...]:
        """In the order of ``COLUMNS``."""
        times = (_seconds(self.noticed_s), _seconds(self.gone_s), _seconds(self.recovered_s))
        return (self.fault, str(self.injected), *times, "; ".join(self.lost) or "nothing")


def render(rows: Sequence[Row]) -> str:
    """The table: median times, and the longest in brackets where there are several."""
    table = [COLUMNS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(COLUMNS))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _seconds(times: Sequence[float]) -> str:
    if not times:
        return "-"
    longest = f" ({max(times):.1f})" if len(times) > 1 else ""
    return f"{median(times):.1f}{longest} s"
