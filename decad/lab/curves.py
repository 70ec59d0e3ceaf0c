"""What was measured against what it cost: a measure of a run's models along steps, bytes or compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decad.lab.runs import Evaluation, Run, Score

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """What a run costs."""

    name: str
    title: str
    unit: str
    scale: float
    """Of the unit, in that of the record."""
    cost: Callable[[Evaluation], float]


STEPS = Axis("steps", "inner steps", "", 1.0, lambda evaluation: evaluation.step)
BYTES = Axis("bytes", "sent by a peer", "MB", 1e6, lambda evaluation: evaluation.bytes_sent)
COMPUTE = Axis("compute", "compute of a peer", "CPU s", 1.0, lambda evaluation: evaluation.compute_s)
AXES = (STEPS, BYTES, COMPUTE)


@dataclass(frozen=True)
class View:
    """Which of a run's models is meant."""

    name: str
    title: str
    score: Callable[[Evaluation, str], float]


@dataclass(frozen=True)
class Metric:
    """How good a model is."""

    name: str
    title: str
    unit: str
    scale: float
    rising: bool
    """Whether more is better."""


LOSS = Metric("loss", "held-out loss", "nats a token", 1.0, rising=False)
CLASSIFIER_LOSS = Metric("loss", "held-out loss", "nats an example", 1.0, rising=False)
ACCURACY = Metric("accuracy", "held-out accuracy", "%", 100.0, rising=True)


def metrics_of(runs: Sequence[Run]) -> tuple[Metric, ...]:
    """Those that the runs' models are judged by, the most telling first."""
    return (ACCURACY, CLASSIFIER_LOSS) if any(run.classifies for run in runs) else (LOSS,)


def _value(score: Score, metric: str) -> float:
    value = score.loss if metric == LOSS.name else score.accuracy
    return math.nan if value is None else value


def _peers(evaluation: Evaluation, metric: str) -> Values:
    return np.array([_value(score, metric) for score in evaluation.peers])


def _worst(evaluation: Evaluation, metric: str) -> float:
    values = _peers(evaluation, metric)
    return float(values.max() if metric == LOSS.name else values.min())


AVERAGED = View("averaged", "averaged model", lambda e, metric: _value(e.averaged, metric))
PEERS = View("peers", "mean of the peers", lambda e, metric: float(_peers(e, metric).mean()))
WORST = View("worst", "worst peer", _worst)
VIEWS = (AVERAGED, PEERS, WORST)


class Curve(NamedTuple):
    """Of one run, in the units of the axis and of the measure."""

    x: Values
    """Never falls."""
    y: Values


def score_curve(run: Run, axis: Axis, view: View, metric: Metric) -> Curve:
    """How good a model of ``run`` was along what it cost."""
    return curve(run, axis, lambda evaluation: metric.scale * view.score(evaluation, metric.name))


def consensus_curve(run: Run, axis: Axis) -> Curve:
    """How far the peers' parameters were from their mean."""
    return curve(run, axis, lambda evaluation: evaluation.consensus_distance)


def cost_curve(run: Run, axis: Axis, of: Axis) -> Curve:
    """What a run had spent of one cost along another."""
    return curve(run, axis, lambda evaluation: of.cost(evaluation) / of.scale)


def curve(run: Run, axis: Axis, measure: Callable[[Evaluation], float]) -> Curve:
    """``measure`` of each evaluation."""
    x = [axis.cost(evaluation) / axis.scale for evaluation in run.evaluations]
    return Curve(np.array(x), np.array([measure(evaluation) for evaluation in run.evaluations]))


def value_at(curve: Curve, x: float) -> float | None:
    """By linear interpolation between evaluations, of which the last at one ``x`` counts; None outside of them."""
    if not len(curve.x) or not curve.x[0] <= x <= curve.x[-1]:
        return None
    after = int(np.searchsorted(curve.x, x, side="right"))
    before = after - 1
    if curve.x[before] == x:
        return float(curve.y[before])
    return float(np.interp(x, curve.x[[before, after]], curve.y[[before, after]]))


class Statistic(NamedTuple):
    """Over the runs of a group."""

    mean: float
    std: float | None
    """Of the sample; None of a single run."""
    runs: int


def statistic(values: Sequence[float]) -> Statistic | None:
    """None of no values."""
    if not values:
        return None
    return Statistic(
        float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None, len(values)
    )


class Band(NamedTuple):
    """Mean and standard deviation over runs, at each x at which one of them was evaluated and all have been."""

    x: Values
    mean: Values
    std: Values | None
    """None of a single run."""


def band(curves: Sequence[Curve]) -> Band | None:
    """None where the curves have no x in common, or none was given."""
    if not curves or not all(len(one.x) for one in curves):
        return None
    if len(curves) == 1:
        return Band(curves[0].x, curves[0].y, None)
    first, last = max(one.x[0] for one in curves), min(one.x[-1] for one in curves)
    x = np.unique(np.concatenate([one.x for one in curves] + [[first, last]]))
    x = x[(first <= x) & (x <= last)]
    values = np.array([[value_at(one, place) for place in x] for one in curves], dtype=np.float64)
    if not len(x):
        return None
    return Band(x, values.mean(axis=0), values.std(axis=0, ddof=1))
