"""Figures for people: numbers rounded to what they are worth, and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from decad.lab.curves import LOSS, Metric, Statistic


def score_text(found: Statistic, metric: Metric) -> str:
    """A mean and its standard deviation, such as "2.034 ± 0.004" or "81.3 ± 0.4 %"."""
    unit = "" if metric.name == LOSS.name else f" {metric.unit}"
    if not math.isfinite(found.mean):
        return "diverged"
    return with_spread(found, 1 if unit else 3 if abs(found.mean) >= 1 else 4) + unit


def with_spread(found: Statistic, decimals: int) -> str:
    """Both numbers to the same decimals, more of them where the deviation would be told as nothing."""
    if found.std is None:
        return f"{found.mean:,.{decimals}f}"
    if 0 < found.std < 0.5 * 10**-decimals:
        decimals += 1
    return f"{found.mean:,.{decimals}f} ± {found.std:,.{decimals}f}"


def figure(value: float) -> str:
    """Three digits, and all those before the point."""
    if not math.isfinite(value):
        return "diverged"
    if abs(value) >= 100 or value == round(value):
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"


def size(count: float) -> str:
    """Bytes for people."""
    unit = "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{figure(count)} {unit}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{figure(seconds)} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, its columns in line so that it can be read as it is; all but the first are to the right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [head, *rows]]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if c else "-") for c, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
