"""Figures of runs: one line a group with a band of one standard deviation over its seeds, named where it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from decad.lab.curves import (
    AVERAGED,
    AXES,
    PEERS,
    STEPS,
    VIEWS,
    WORST,
    Axis,
    Band,
    Curve,
    Metric,
    band,
    consensus_curve,
    curve,
    score_curve,
)
from decad.lab.figures import size
from decad.lab.groups import Group
from decad.lab.runs import Run

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


def comparison(groups: Sequence[Group], axis: Axis, metric: Metric) -> Figure:
    """The averaged model, the mean of the peers' own and the worst peer, side by side, along ``axis``."""
    panels = [
        _fitting(
            Panel(
                view.title,
                _named(axis),
                _lines(groups, partial(score_curve, axis=axis, view=view, metric=metric)),
            )
        )
        for view in VIEWS
    ]
    return _draw(panels, _judged(metric), better=_better(metric))


def consensus(groups: Sequence[Group]) -> Figure:
    """Consensus distance along the steps."""
    lines = _lines(groups, lambda run: _positive(consensus_curve(run, STEPS)))
    values = np.concatenate([part.y for line in lines for part in line.parts()] or [np.empty(0)])
    positive = values[np.isfinite(values)]
    wide = len(positive) and positive.max() > WIDE_RANGE * positive.min()
    return _draw(
        [Panel("", _named(STEPS), lines)],
        "consensus distance, log scale" if wide else "consensus distance",
        y_scale="log" if wide else "linear",
        width=5.0,
    )


def memory(groups: Sequence[Group]) -> Figure | None:
    """A bar a group, of the parts of one peer's memory; None if nothing is known of any."""
    known = [(group.label, parts) for group in groups if (parts := memory_of(group.runs))]
    if not known:
        return None
    names = list(dict.fromkeys(name for _, parts in known for name in parts))
    with _style():
        made = Figure(figsize=(7.2, 0.9 + 0.34 * len(known)), layout="constrained")
        axes = made.subplots()
        unit = 2**20
        left = np.zeros(len(known))
        for place, name in enumerate(names):
            widths = np.array([parts.get(name, 0.0) / unit for _, parts in known])
            axes.barh(
                [label for label, _ in known],
                widths,
                left=left,
                height=0.62,
                label=name,
                color=COLOURS[place % len(COLOURS)],
                alpha=0.85,
            )
            left += widths
        for row, total in enumerate(left):
            axes.annotate(
                size(total * unit), (total, row), xytext=(4, 0), textcoords="offset points", va="center"
            )
        axes.invert_yaxis()
        axes.set_xlim(0, left.max() * 1.15)
        axes.set_xlabel("memory of one peer (MiB)")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
        made.legend(loc="outside upper left", ncols=len(names), frameon=False, handlelength=1.0)
    return made


def against_memory(groups: Sequence[Group], metric: Metric) -> Figure | None:
    """What the averaged model came to, by the memory of one peer; None if nothing is known of any that ended."""
    known = [group for group in groups if group.finished and memory_of(group.finished)]
    if not known:
        return None

    def last(run: Run) -> Curve:
        total = sum(memory_of([run]).values()) / 2**20
        return Curve(np.array([total]), score_curve(run, STEPS, AVERAGED, metric).y[-1:])

    panel = _fitting(Panel("", "memory of one peer (MiB)", _lines(known, last), points=True))
    return _draw([panel], _judged(metric), width=5.0)


def memory_of(runs: Sequence[Run]) -> dict[str, float]:
    """Part -> bytes, the mean over the runs that ended."""
    known = [run.result.memory for run in runs if run.result is not None]
    names = dict.fromkeys(name for parts in known for name in parts)
    return {name: sum(parts.get(name, 0.0) for parts in known) / len(known) for name in names}


def progress(run: Run, metric: Metric) -> Figure:
    """One run's models along its steps, bytes and compute; each peer's own is a thin line."""
    peers = len(run.evaluations[0].peers) if run.evaluations else 0
    views = ((AVERAGED, 0), (PEERS, 4), (WORST, 1)) if peers > 1 else ((AVERAGED, 0),)

    def panel(axis: Axis) -> Panel:
        lines = tuple(
            _line(
                view.title, [run], partial(score_curve, axis=axis, view=view, metric=metric), COLOURS[colour]
            )
            for view, colour in views
        )
        return Panel("", _named(axis), lines, _each_peer(run, axis, metric, peers))

    spent = [axis for axis in AXES if axis is STEPS or any(map(axis.cost, run.evaluations))]
    panels = [panel(axis) for axis in spent]
    return _draw(panels, _judged(metric), better=_better(metric))


def _each_peer(run: Run, axis: Axis, metric: Metric, peers: int) -> tuple[Curve, ...]:
    same = [evaluation for evaluation in run.evaluations if len(evaluation.peers) == peers]
    if peers < 2 or len(same) != len(run.evaluations):
        return ()

    def of(place: int) -> Curve:
        return curve(
            run,
            axis,
            lambda e: (
                metric.scale * AVERAGED.score(e.model_copy(update={"averaged": e.peers[place]}), metric.name)
            ),
        )

    return tuple(of(place) for place in range(peers))


def save(made: Figure, directory: Path, name: str) -> None:
    """As NAME.png and NAME.svg; the same data give the same files."""
    with _style():
        made.savefig(directory / f"{name}.png", dpi=160)
        made.savefig(directory / f"{name}.svg", metadata={"Date": None})


def _named(axis: Axis) -> str:
    return f"{axis.title} ({axis.unit})" if axis.unit else axis.title


def _better(metric: Metric) -> Literal["up", "down"]:
    return "up" if metric.rising else "down"


def _judged(metric: Metric) -> str:
    return f"{metric.title} ({metric.unit})"


def _positive(found: Curve) -> Curve:
    return Curve(found.x, np.where(found.y > 0, found.y, np.nan))


def _lines(groups: Sequence[Group], of: Callable[[Run], Curve]) -> tuple[Line, ...]:
    return tuple(
        _line(
            _shown_name(group),
            group.runs,
            of,
            COLOURS[place % len(COLOURS)],
            DASHES[place // len(COLOURS) % len(DASHES)],
        )
        for place, group in enumerate(groups)
    )


def _line(name: str, runs: Sequence[Run], of: Callable[[Run], Curve], colour: str, dashes: Any = "-") -> Line:
    finished = [run for run in runs if run.finished]
    return Line(
        name,
        band([of(run) for run in finished]),
        tuple(of(run) for run in runs if not run.finished),
        colour,
        dashes,
    )


def _shown_name(group: Group) -> str:
    """With what became of it, if no run of it ended as it should."""
    states = sorted({run.state for run in group.runs})
    return group.label if group.finished else f"{group.label} ({' or '.join(states)})"


def _draw(
    panels: Sequence[Panel],
    y: str,
    *,
    y_scale: Scale = "linear",
    better: Literal["up", "down"] | None = None,
    width: float = PANEL[0],
) -> Figure:
    lines = panels[-1].lines
    with _style():
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


def _fitting(panel: Panel) -> Panel:
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
    places = spread(wanted, gap)
    lowered = max(0.0, max(places) - 1.0)
    for (line, x, y), share in zip(ends, (place - lowered for place in places), strict=True):
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


@contextmanager
def _style() -> Iterator[None]:
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
