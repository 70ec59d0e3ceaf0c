"""What is told of one run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from decad.lab import plots
from decad.lab.curves import AXES, VIEWS, Metric, Statistic, metrics_of
from decad.lab.figures import duration, figure, score_text, size, table
from decad.lab.groups import group_runs, shown
from decad.lab.page import write_report
from decad.lab.reproduce import FILE, command, experiment_file
from decad.lab.runs import Evaluation, Run

MOMENTS = 5
"""Evaluations that the table shows at most: the first, the last, and some evenly between."""


def report(run: Run) -> None:
    """Write report.md, report.html and the figures into the run's directory."""
    figures = _figures(run)
    title = str(run.settings.get("name") or group_runs([run])[0].label)
    write_report(run.directory, title, _text(run, title, figures), figures)


def _figures(run: Run) -> dict[str, Figure]:
    if not run.evaluations:
        return {}
    figures = {metric.name: plots.progress(run, metric) for metric in metrics_of([run])}
    if any(evaluation.consensus_distance > 0 for evaluation in run.evaluations):
        figures["consensus"] = plots.consensus(group_runs([run]))
    if made := plots.memory(group_runs([run])):
        figures["memory"] = made
    return figures


CAPTIONS = {
    "loss": "Held-out loss along steps, bytes and compute",
    "accuracy": "Held-out accuracy along steps, bytes and compute",
    "consensus": "Consensus distance along the steps",
    "memory": "Memory of one peer by what it is for",
}


def _text(run: Run, title: str, figures: dict[str, Figure]) -> str:
    metrics = metrics_of([run])
    parts = [f"# {title}", state_text(run)]
    if run.evaluations:
        parts += ["## Held-out data", evaluations_table(run, metrics)]
        parts += [_picture(metric.name) for metric in metrics]
        parts += [
            "Loss is in nats. Grey: each peer's own model. All are evaluated on what all peers hold out together."
        ]
    if "consensus" in figures:
        parts += [
            "## Consensus distance",
            "The root of the mean over peers of the squared distance to the averaged model.",
            _picture("consensus"),
        ]
    parts += ["## Cost of one peer", _cost_table(run)]
    if "memory" in figures:
        parts.append(_picture("memory"))
    parts += ["## Settings", settings_table(run), *reproduction([run])]
    return "\n\n".join(parts) + "\n"


def _picture(name: str) -> str:
    return f"![{CAPTIONS[name]}]({name}.png)"


def state_text(run: Run) -> str:
    """How it ended, in a sentence."""
    planned = run.settings.get("steps")
    of = f" of {planned:,}" if isinstance(planned, int) else ""
    if run.finished and run.result is not None:
        made = f"decad {run.result.decad}, {run.result.machine}"
        return f"Finished: {run.step:,} steps in {duration(run.result.wall_s)} ({made})."
    if run.result is not None and run.result.diverged is not None:
        return f"**Diverged at step {run.result.diverged:,}{of}**: a gradient was not finite. Try a lower lr."
    last = f"last evaluated at step {run.step:,}{of}" if run.evaluations else "before its first evaluation"
    return f"**Interrupted, {last}.**"


def evaluations_table(run: Run, metrics: Sequence[Metric]) -> str:
    """Markdown: the first and the last evaluation, and some between."""
    count = len(run.evaluations)
    places = sorted({round(part * (count - 1) / (MOMENTS - 1)) for part in range(MOMENTS)})
    head = [
        "steps",
        *(
            view.title if len(metrics) == 1 else f"{view.title}, {metric.name}"
            for metric in metrics
            for view in VIEWS
        ),
        "consensus distance",
        *(f"{axis.title}, {axis.unit}" for axis in AXES[1:]),
    ]

    def row(evaluation: Evaluation) -> list[str]:
        scores = [
            score_text(Statistic(metric.scale * view.score(evaluation, metric.name), None, 1), metric)
            for metric in metrics
            for view in VIEWS
        ]
        costs = [figure(axis.cost(evaluation) / axis.scale) for axis in AXES[1:]]
        return [f"{evaluation.step:,}", *scores, figure(evaluation.consensus_distance), *costs]

    return table(head, [row(run.evaluations[place]) for place in places])


def _cost_table(run: Run) -> str:
    last = run.evaluations[-1] if run.evaluations else None
    rows = [
        [axis.title, f"{figure(axis.cost(last) / axis.scale)} {axis.unit}".strip()] for axis in AXES if last
    ]
    parts = plots.memory_of([run])
    rows += [[f"memory: {name}", size(value)] for name, value in parts.items()]
    rows += [["memory: peak of these together", size(sum(parts.values()))]] if parts else []
    return table(["what", "cost"], rows)


def settings_table(run: Run) -> str:
    """Markdown: every setting."""
    return table(["setting", "value"], [[f"`{name}`", shown(value)] for name, value in run.settings.items()])


def reproduction(runs: Sequence[Run]) -> list[str]:
    """Markdown: how to make ``runs`` again."""
    one = len(runs) == 1
    return [
        "## To run it again" if one else "## To run them again",
        f"Write {'this' if one else 'what they share'} to {FILE}, in the directory that its paths begin at:",
        f"```toml\n{experiment_file(runs)}\n```",
        "Then, into directories that do not exist yet:"
        if not one
        else "Then, into a directory that does not exist yet:",
        "```sh\n" + "\n".join(command(run, runs) for run in runs) + "\n```",
    ]


def plain(run: Run) -> dict[str, Any]:
    """For machines: the run's state and its last evaluation."""
    return {
        "directory": str(run.directory),
        "state": run.state,
        "settings": dict(run.settings),
        "memory": plots.memory_of([run]),
        "last": json.loads(run.evaluations[-1].model_dump_json()) if run.evaluations else None,
    }
