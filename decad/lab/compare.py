"""What is told of several runs side by side: at equal steps, at equal bytes, at equal compute."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from decad.lab import budgets, plots
from decad.lab.budgets import Standing
from decad.lab.curves import AXES, BYTES, COMPUTE, STEPS, Axis, consensus_curve, metrics_of, statistic
from decad.lab.figures import figure, size, table
from decad.lab.groups import Group, differing, group_runs, shown
from decad.lab.page import write_report
from decad.lab.report import reproduction, state_text
from decad.lab.runs import Run

TITLES = {STEPS.name: "equal steps", BYTES.name: "equal bytes", COMPUTE.name: "equal compute"}
READING = (
    "Mean ± standard deviation (of the sample) over runs that differ in their seed alone; in the figures, a line and a "
    "band. Values between two evaluations are interpolated linearly, and none is extrapolated: what ended before "
    "the budget is *not reached*. What is cut off while its learning rate decays looks worse there than a run that was "
    "planned that short. A cross ends the line of a run that was interrupted or diverged. "
    "Losses are in nats, on what all peers hold out together; bytes, compute and memory are those of one peer; "
    "memory is the sum of the parts that are named below, each at its largest."
)


class Comparison:
    """Groups of runs and how they stand at each budget."""

    def __init__(self, runs: Sequence[Run], chosen: Mapping[str, float]) -> None:
        """``chosen``: axis -> budget in its unit, where `budgets.budget_of` shall not decide."""
        self.runs = runs
        self.groups = group_runs(runs)
        asked = {axis: chosen.get(axis.name, budgets.budget_of(self.groups, axis)) for axis in AXES}
        self.standings = [
            budgets.standing(self.groups, axis, budget)
            for axis, budget in asked.items()
            if budget is not None
        ]

    def tables(self) -> str:
        """Markdown, for a terminal too."""
        parts = [groups_table(self.groups)]
        for made in self.standings:
            parts += [heading(made), budgets.standing_table(made)]
        return "\n\n".join([*parts, *self._unfinished()])

    def write(self, directory: Path, title: str, command: str) -> None:
        """report.md, report.html and the figures; ``command``: what the user typed."""
        directory.mkdir(parents=True, exist_ok=True)
        figures = self._figures()
        write_report(directory, title, self._text(title, command, figures), figures)

    def plain(self) -> dict[str, Any]:
        """For machines."""
        return {
            "groups": [
                {
                    "label": group.label,
                    "settings": dict(group.settings),
                    "memory": plots.memory_of(group.runs),
                    "runs": [
                        {
                            "directory": str(run.directory),
                            "seed": run.seed,
                            "state": run.state,
                            "step": run.step,
                        }
                        for run in group.runs
                    ],
                }
                for group in self.groups
            ],
            **{f"equal_{made.axis.name}": budgets.plain(made) for made in self.standings},
        }

    def _figures(self) -> dict[str, Figure]:
        figures = {
            f"{metric.name}-{axis.name}": plots.comparison(self.groups, axis, metric)
            for axis in AXES
            for metric in metrics_of(self.runs)
            if _drawn(self.runs, axis)
        }
        if any((consensus_curve(run, STEPS).y > 0).any() for run in self.runs):
            figures["consensus"] = plots.consensus(self.groups)
        if made := plots.memory(self.groups):
            figures["memory"] = made
        for metric in metrics_of(self.runs):
            if made := plots.against_memory(self.groups, metric):
                figures[f"{metric.name}-memory"] = made
        return figures

    def _text(self, title: str, command: str, figures: Mapping[str, Figure]) -> str:
        parts = [f"# {title}", READING, *self._unfinished(), "## Runs", groups_table(self.groups)]
        for made in self.standings:
            parts += [f"## {heading(made)}", budgets.standing_table(made)]
            parts += [
                f"![Held-out {metric.name} along {made.axis.title}]({metric.name}-{made.axis.name}.png)"
                for metric in metrics_of(self.runs)
                if f"{metric.name}-{made.axis.name}" in figures
            ]
        if "consensus" in figures:
            parts += [
                "## Consensus distance",
                "The root of the mean over peers of the squared distance to the averaged model. Where it is always 0, "
                "nothing is drawn.",
                "![Consensus distance along the steps](consensus.png)",
            ]
        if "memory" in figures:
            parts += ["## Memory", "![Memory of one peer by what it is for](memory.png)"]
            parts += [
                f"![Held-out {metric.name} in the end by memory of one peer]({metric.name}-memory.png)"
                for metric in metrics_of(self.runs)
                if f"{metric.name}-memory" in figures
            ]
        parts += ["## Settings", *settings_tables(self.groups), *reproduction(self.runs)]
        parts += ["And this report:", f"```sh\n{command}\n```"]
        return "\n\n".join(parts) + "\n"

    def _unfinished(self) -> list[str]:
        told = [f"- {run.directory}: {state_text(run)}" for run in self.runs if not run.finished]
        return ["\n".join(told)] if told else []


def _drawn(runs: Sequence[Run], axis: Axis) -> bool:
    return any(axis.cost(evaluation) > 0 for run in runs for evaluation in run.evaluations)


def heading(made: Standing) -> str:
    """Such as "At equal bytes: 120 MB"."""
    return f"At {TITLES[made.axis.name]}: {budgets.budget_text(made)}"


def groups_table(groups: Sequence[Group]) -> str:
    """Markdown: what there is of each group, and what its runs came to cost."""
    head = [
        "method",
        "seeds",
        "state",
        *(f"{a.title}, {a.unit}" if a.unit else a.title for a in AXES),
        "memory",
    ]
    return table(head, [_group_row(group) for group in groups])


def _group_row(group: Group) -> list[str]:
    states = [run.state for run in group.runs]
    told = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    ends = [run.evaluations[-1] for run in group.finished or group.runs if run.evaluations]
    spent = [statistic([axis.cost(end) / axis.scale for end in ends]) for axis in AXES]
    memory = sum(plots.memory_of(group.runs).values())
    return [
        group.label,
        ", ".join(str(run.seed) for run in group.runs),
        told,
        *(figure(total.mean) if total else "-" for total in spent),
        size(memory) if memory else "-",
    ]


def settings_tables(groups: Sequence[Group]) -> list[str]:
    """Markdown: those that differ, a row a group, and those that are the same everywhere."""
    names = differing(groups)
    parts = []
    if names:
        rows = [
            [g.label, *(shown(g.settings[name]) if name in g.settings else "-" for name in names)]
            for g in groups
        ]
        parts.append(table(["method", *names], rows))
    same = [
        [f"`{name}`", shown(value)]
        for name, value in groups[0].settings.items()
        if name not in names and (name != "method" or len({group.method for group in groups}) == 1)
    ]
    return [*parts, table(["the same in all", "value"], same)]


def typed(directories: Sequence[Path], into: Path, chosen: Mapping[str, float]) -> str:
    """The command that compares ``directories``."""
    flags = {STEPS.name: "--steps", BYTES.name: "--megabytes", COMPUTE.name: "--seconds"}
    words = [*map(str, directories), "--into", str(into)]
    words += [word for name, budget in chosen.items() for word in (flags[name], f"{budget:g}")]
    return shlex.join(["decad", "lab", "compare", *words])
