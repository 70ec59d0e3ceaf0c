"""What each group of runs came to at equal steps, at equal bytes and at equal compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decad.config import RunSpec
from decad.lab.curves import (
    AXES,
    VIEWS,
    Axis,
    Curve,
    Metric,
    Statistic,
    consensus_curve,
    cost_curve,
    metrics_of,
    score_curve,
    statistic,
    value_at,
)
from decad.lab.figures import figure, score_text, table
from decad.lab.groups import Group
from decad.lab.runs import Run

SAME = 0.9
"""Totals from this share of each other on count as the same budget."""


@dataclass(frozen=True)
class Row:
    """One group at a budget. A statistic is of those runs that reach it, and None if none does."""

    group: Group
    scores: Mapping[tuple[str, str], Statistic | None]
    """(view, metric) -> in the metric's unit."""
    by_seed: Mapping[int, float]
    """Seed -> the averaged model's score by the first metric, of the runs that reach it."""
    consensus_distance: Statistic | None
    costs: Mapping[str, Statistic | None]
    """Axis -> in its unit."""
    spends: bool
    """Whether the group spends any of what the budget is of."""

    @property
    def reached(self) -> int:
        return self.consensus_distance.runs if self.consensus_distance else 0

    def behind(self, other: Row, metric: Metric) -> Statistic | None:
        """By how much the averaged model's score is worse than ``other``'s, run by run of the same seed.

        A seed draws who has which data, which often changes a score by more than the method does.
        """
        common = self.by_seed.keys() & other.by_seed.keys()
        sign = -1 if metric.rising else 1
        return statistic([sign * (self.by_seed[seed] - other.by_seed[seed]) for seed in sorted(common)])


@dataclass(frozen=True)
class Standing:
    """All groups at one budget."""

    axis: Axis
    budget: float
    """In the axis' unit."""
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    """The best first; those that do not reach it last."""


def budget_of(groups: Sequence[Group], axis: Axis) -> float | None:
    """What to compare at, in the axis' unit: all that DECA spends; without it, the first group.

    Of several groups of DECA the first with the default moment rule decides, or the first.

    Costs that are measured differ a little from run to run: the least of those that come to at least `SAME` of it is
    taken, so that they are compared rather than told not to reach it. None if nobody spends anything.
    """
    totals = {place: spent for place, group in enumerate(groups) if (spent := _spent(group, axis)) > 0}
    if not totals:
        return None
    reference = totals[min(totals, key=lambda place: _strangeness(groups[place]))]
    return min(spent for spent in totals.values() if spent >= SAME * reference)


def _strangeness(group: Group) -> tuple[bool, bool]:
    return group.method != "deca", group.settings.get("moments") != RunSpec().moments


def _spent(group: Group, axis: Axis) -> float:
    """By each of the runs that ended; if none did, by each that was evaluated."""
    runs = group.finished or group.runs
    return min((axis.cost(run.evaluations[-1]) / axis.scale for run in runs if run.evaluations), default=0.0)


def standing(groups: Sequence[Group], axis: Axis, budget: float) -> Standing:
    """``budget``: in the unit of the axis. Values between evaluations are interpolated; none is extrapolated."""
    metrics = metrics_of([run for group in groups for run in group.runs])
    rows = [_row(group, axis, budget, metrics) for group in groups]
    return Standing(axis, budget, metrics, tuple(sorted(rows, key=lambda row: _rank(row, metrics[0]))))


def _row(group: Group, axis: Axis, budget: float, metrics: Sequence[Metric]) -> Row:
    def over_runs(curves: Sequence[Curve]) -> Statistic | None:
        values = [value_at(one, budget) for one in curves]
        return statistic([value for value in values if value is not None])

    runs: Sequence[Run] = group.runs
    reached = {run.seed: value_at(score_curve(run, axis, VIEWS[0], metrics[0]), budget) for run in runs}
    return Row(
        group,
        {
            (view.name, metric.name): over_runs([score_curve(run, axis, view, metric) for run in runs])
            for view in VIEWS
            for metric in metrics
        },
        {seed: value for seed, value in reached.items() if value is not None},
        over_runs([consensus_curve(run, axis) for run in runs]),
        {other.name: over_runs([cost_curve(run, axis, other) for run in runs]) for other in AXES},
        any(run.evaluations and axis.cost(run.evaluations[-1]) > 0 for run in runs),
    )


def _rank(row: Row, metric: Metric) -> tuple[int, float]:
    found = row.scores[VIEWS[0].name, metric.name]
    if found is None:
        return 2, 0.0
    if found.mean != found.mean:  # NaN has no place in an order
        return 1, 0.0
    return 0, -found.mean if metric.rising else found.mean


def standing_table(made: Standing) -> str:
    """Markdown. Costs and distance are means over the runs; "behind" is behind the first row."""
    others = [axis for axis in AXES if axis is not made.axis]
    head = ["method"]
    head += [
        f"{view.title}{'' if len(made.metrics) == 1 else f', {metric.name}'}"
        for metric in made.metrics
        for view in VIEWS
    ]
    head += [
        "behind, by seed",
        "consensus distance",
        *(f"{axis.title}, {axis.unit}" if axis.unit else axis.title for axis in others),
    ]
    return table(head, [_cells(row, made, others, len(head) - 1) for row in made.rows])


def _cells(row: Row, made: Standing, others: Sequence[Axis], width: int) -> list[str]:
    told, metrics, best = row.group.label, made.metrics, made.rows[0]
    if not row.reached:
        return [told, _why_not(row, metrics[0]), *["-"] * (width - 1)]
    if row.reached < len(row.group.runs):
        told = f"{told} ({row.reached} of {len(row.group.runs)} runs)"
    scores = [row.scores[view.name, metric.name] for metric in metrics for view in VIEWS]
    judged = [metric for metric in metrics for _ in VIEWS]
    return [
        told,
        *(score_text(found, metric) if found else "-" for found, metric in zip(scores, judged, strict=True)),
        score_text(behind, metrics[0])
        if row is not best and (behind := row.behind(best, metrics[0]))
        else "-",
        _mean(row.consensus_distance),
        *(_mean(row.costs[axis.name]) for axis in others),
    ]


def _why_not(row: Row, metric: Metric) -> str:
    if any(run.state == "diverged" for run in row.group.runs):
        return "diverged"
    why = "not reached" if row.spends else "needs none"
    finished = row.group.finished
    ends = statistic([metric.scale * VIEWS[0].score(run.evaluations[-1], metric.name) for run in finished])
    # Who gets as far for less must not look as if it got nowhere.
    return f"{why}, ends at {score_text(ends, metric)}" if ends else why


def _mean(found: Statistic | None) -> str:
    return figure(found.mean) if found else "-"


def budget_text(made: Standing) -> str:
    """Such as "120 MB"."""
    return f"{figure(made.budget)} {made.axis.unit or 'steps'}"


def plain(made: Standing) -> dict[str, Any]:
    """For machines: means and deviations not rounded, null where a budget is not reached."""
    return {
        "budget": made.budget,
        "unit": made.axis.unit or "steps",
        "rows": [
            {
                "label": row.group.label,
                "runs_that_reach_it": row.reached,
                **{
                    f"{view.name}_{metric.name}": _plain(row.scores[view.name, metric.name])
                    for metric in made.metrics
                    for view in VIEWS
                },
                "behind": _plain(row.behind(made.rows[0], made.metrics[0])),
                "consensus_distance": _plain(row.consensus_distance),
                **{axis.name: _plain(row.costs[axis.name]) for axis in AXES},
            }
            for row in made.rows
        ],
    }


def _plain(found: Statistic | None) -> dict[str, float | None] | None:
    if found is None:
        return None
    finite = (
        value if value is None or abs(value) < float("inf") else None for value in (found.mean, found.std)
    )
    return dict(zip(("mean", "std"), finite, strict=True))
