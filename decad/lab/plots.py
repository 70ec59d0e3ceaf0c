"""Figures of runs: one line a group with a band of one standard deviation over its seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from decad.lab.canvas import COLOURS, DASHES, WIDE_RANGE, Line, Panel, draw, fitting, style
from decad.lab.curves import (
    AVERAGED,
    AXES,
    PEERS,
    STEPS,
    VIEWS,
    WORST,
    Axis,
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


def comparison(groups: Sequence[Group], axis: Axis, metric: Metric) -> Figure:
    """The averaged model, the mean of the peers' own and the worst peer, side by side, along ``axis``."""
    panels = [
        fitting(
            Panel(
                view.title,
                _named(axis),
                _lines(groups, partial(score_curve, axis=axis, view=view, metric=metric)),
            )
        )
        for view in VIEWS
    ]
    return draw(panels, _judged(metric), better=_better(metric))


def consensus(groups: Sequence[Group]) -> Figure:
    """Consensus distance along the steps."""
    lines = _lines(groups, lambda run: _positive(consensus_curve(run, STEPS)))
    values = np.concatenate([part.y for line in lines for part in line.parts()] or [np.empty(0)])
    positive = values[np.isfinite(values)]
    wide = len(positive) and positive.max() > WIDE_RANGE * positive.min()
    return draw(
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
    with style():
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

    panel = fitting(Panel("", "memory of one peer (MiB)", _lines(known, last), points=True))
    return draw([panel], _judged(metric), width=5.0)


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
    return draw(panels, _judged(metric), better=_better(metric))


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
