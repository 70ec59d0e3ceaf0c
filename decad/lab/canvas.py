"""How figures are drawn: panels side by side, lines named where they end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from decad.lab.curves import Band, Curve

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Of Okabe and Ito, told apart with every kind of colour vision; without the yellow, which white paper swallows."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
"""Of the first seven lines, the next seven, and so on."""
FONT = 9.0
"""Points."""
PANEL = (3.3, 3.1)
"""Width and height in inches, without the names of the lines."""
WIDE_RANGE = 30.0
"""From such a ratio on, costs are shown on a logarithmic axis."""
HEADROOM = 0.15
"""How much worse than at the start is shown, as a share of what was gained: a diverging run would flatten the rest."""


@dataclass(frozen=True)
class Line:
    """What is drawn of one group, or of one of a run's models."""

    name: str
    band: Band | None
    """Of the runs that ended."""
    cut: tuple[Curve, ...]
    """Of those that were interrupted or diverged: they end in a cross."""
    colour: str
    dashes: Any = "-"

    def parts(self) -> list[Curve]:
        whole = [] if self.band is None else [Curve(self.band.x, self.band.mean)]
        return [part for part in (*whole, *self.cut) if len(part.x)]

    def from_above_zero(self) -> Line:
        """What a logarithmic axis can show of it."""
        cut = tuple(Curve(one.x[one.x > 0], one.y[one.x > 0]) for one in self.cut)
        if self.band is None:
            return replace(self, cut=cut)
        kept = self.band.x > 0
        std = None if self.band.std is None else self.band.std[kept]
        return replace(self, cut=cut, band=Band(self.band.x[kept], self.band.mean[kept], std))


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    x: str
    lines: tuple[Line, ...]
    faint: tuple[Curve, ...] = ()
    """Drawn thin and grey behind the lines."""
    logarithmic: bool = False
    """Of the x axis."""
    points: bool = False
    """Each line is a single point, with its deviation as a bar."""


Scale = Literal["linear", "log"]


def save(made: Figure, directory: Path, name: str) -> None:
    """As NAME.png and NAME.svg; the same data give the same files."""
    with style():
        made.savefig(directory / f"{name}.png", dpi=160)
        made.savefig(directory / f"{name}.svg", metadata={"Date": None})


def draw(
    panels: Sequence[Panel],
    y: str,
    *,
    y_scale: Scale = "linear",
    better: Literal["up", "down"] | None = None,
    width: float = PANEL[0],
) -> Figure:
    lines = panels[-1].lines
    with style():
        height = max(PANEL[1], 0.8 + len(lines) * FONT * 1.35 / 72)
        names = 0.35 + max((len(line.name) for line in lines), default=0) * FONT * 0.53 / 72
        made = Figure(figsize=(width * len(panels) + names, height))
        row = made.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        made.subplots_adjust(
            left=0.62 / made.get_figwidth(),
            right=1 - names / made.get_figwidth(),
            bottom=0.5 / height,
            top=1 - (0.32 if any(panel.title for panel in panels) else 0.12) / height,
            wspace=0.09,
        )
        for axes, panel in zip(row, panels, strict=True):
            _fill(axes, panel)
        row[0].set_ylabel(y)
        row[0].set_yscale(y_scale)
        if y_scale == "log":
            row[0].yaxis.set_major_formatter(StrMethodFormatter("{x:.6g}"))
            row[0].yaxis.set_minor_formatter(NullFormatter())
        framed = y_scale == "linear" and not any(panel.points for panel in panels)
        if limits := _limits(panels, better) if framed else None:
            row[0].set_ylim(*limits)
        _name_lines(row[-1], lines)
    return made


def _fill(axes: Axes, panel: Panel) -> None:
    if panel.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    if panel.title:
        axes.set_title(panel.title, loc="left")
    axes.set_xlabel(panel.x + (", log scale" if panel.logarithmic else ""))
    for one in panel.faint:
        axes.plot(one.x, one.y, color="#b5b5b5", linewidth=0.7, zorder=1)
    if panel.points:
        _mark(axes, panel.lines)
        return
    for line in panel.lines:
        style: Mapping[str, Any] = {"color": line.colour, "linestyle": line.dashes, "zorder": 3}
        if line.band is not None:
            axes.plot(line.band.x, line.band.mean, linewidth=1.7, label=line.name, **style)
            if line.band.std is not None:
                low, high = line.band.mean - line.band.std, line.band.mean + line.band.std
                axes.fill_between(
                    line.band.x, low, high, color=line.colour, alpha=0.18, linewidth=0, zorder=2
                )
        for one in line.cut:
            axes.plot(one.x, one.y, linewidth=1.0, label=line.name, **style)
            axes.plot(one.x[-1:], one.y[-1:], marker="x", color=line.colour, markersize=6, zorder=4)


def _mark(axes: Axes, lines: Sequence[Line]) -> None:
    for line in lines:
        if line.band is not None:
            axes.errorbar(
                line.band.x,
                line.band.mean,
                yerr=line.band.std,
                fmt="o",
                color=line.colour,
                label=line.name,
                markersize=4.5,
                capsize=2.0,
            )


def fitting(panel: Panel) -> Panel:
    """On a logarithmic axis if the lines' ends lie far apart; then those that end at 0 are left out."""
    ends = [part.x[-1] for line in panel.lines for part in line.parts() if part.x[-1] > 0]
    if not ends or max(ends) <= WIDE_RANGE * min(ends):
        return panel
    shown = tuple(line.from_above_zero() for line in panel.lines)
    return replace(panel, lines=shown, logarithmic=True)


def _limits(panels: Sequence[Panel], better: Literal["up", "down"] | None) -> tuple[float, float] | None:
    parts = [part for panel in panels for line in panel.lines for part in line.parts()]
    parts += [one for panel in panels for one in panel.faint]
    parts = [Curve(part.x, part.y[np.isfinite(part.y)]) for part in parts]
    parts = [part for part in parts if len(part.y)]
    if not parts:
        return None
    low, high = min(float(part.y.min()) for part in parts), max(float(part.y.max()) for part in parts)
    starts = [float(part.y[0]) for part in parts]
    if better == "up":
        low = max(low, min(starts) - HEADROOM * (high - min(starts)))
    elif better is None:
        low = min(low, 0.0)
    else:
        high = min(high, max(starts) + HEADROOM * (max(starts) - low))
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _name_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """To the right of the axes, each beside the end of its line, moved apart where they would overlap."""
    axes.autoscale_view()
    ends = [
        (line, *end) for line in lines for part in line.parts()[:1] if (end := _end(part, axes.get_ylim()))
    ]
    if not ends:
        return
    to_share = axes.transData + axes.transAxes.inverted()
    height = axes.get_window_extent().height / axes.figure.dpi * 72
    wanted = [float(to_share.transform((x, y))[1]) for _, x, y in ends]
    gap = 1.3 * FONT / height
    for (line, x, y), share in zip(ends, inside(spread(wanted, gap), gap), strict=True):
        axes.annotate(
            line.name,
            (x, y),
            xycoords="data",
            xytext=(1.06, share),
            textcoords="axes fraction",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": line.colour,
                "linewidth": 0.8,
                "linestyle": (0, (1, 1.5)),
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 1,
            },
        )


def _end(part: Curve, limits: tuple[float, float]) -> tuple[float, float] | None:
    """Where the last of a line is seen; of one that leaves the frame at once, where it does."""
    known = np.flatnonzero(np.isfinite(part.y))
    low, high = limits
    inside = [place for place in known if low <= part.y[place] <= high]
    if not len(known):
        return None
    last = inside[-1] if inside else known[0]
    return float(part.x[last]), float(np.clip(part.y[last], low, high))


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places at least ``gap`` apart in the order of ``wanted``, as near to them as the mean of each cluster can be."""
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    clusters: list[list[int]] = []

    def middle(cluster: Sequence[int]) -> float:
        return sum(wanted[place] for place in cluster) / len(cluster)

    for place in order:
        clusters.append([place])
        while len(clusters) > 1 and middle(clusters[-1]) - middle(clusters[-2]) < gap * 0.5 * (
            len(clusters[-1]) + len(clusters[-2])
        ):
            last = clusters.pop()
            clusters[-1] += last
    found = [0.0] * len(wanted)
    for cluster in clusters:
        for row, place in enumerate(cluster):
            found[place] = middle(cluster) + gap * (row - (len(cluster) - 1) / 2)
    return found


def inside(places: Sequence[float], gap: float) -> list[float]:
    """``places`` that are ``gap`` apart, moved as little as it takes to lie in [0, 1]; the lowest may hang out."""
    found = list(places)
    for rank, place in enumerate(sorted(range(len(found)), key=lambda place: found[place])):
        lowest, highest = gap * rank, 1.0 - gap * (len(found) - 1 - rank)
        found[place] = min(max(found[place], lowest), highest)
    return found


@contextmanager
def style() -> Iterator[None]:
    with matplotlib.rc_context(
        {
            "font.size": FONT,
            "font.family": "DejaVu Sans",  # comes with matplotlib: figures look the same everywhere
            "axes.titlesize": FONT,
            "axes.titleweight": "bold",
            "axes.labelsize": FONT,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#666666",
            "axes.axisbelow": True,
            "axes.grid": True,
            "axes.grid.axis": "y",
            "grid.color": "#e4e4e4",
            "grid.linewidth": 0.7,
            "xtick.color": "#444444",
            "ytick.color": "#444444",
            "xtick.labelsize": FONT - 1,
            "ytick.labelsize": FONT - 1,
            "svg.hashsalt": "decad",
            "savefig.facecolor": "white",
        }
    ):
        yield
