"""The figures hold what the data say: what is asked is matplotlib's objects, not pixels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation, Text
from numpy.typing import NDArray
from support.lab_runs import campaign, evaluation, plausible, write_run

from decad.lab import canvas, plots
from decad.lab.curves import ACCURACY, AXES, BYTES, COMPUTE, LOSS, STEPS, Axis
from decad.lab.groups import Group, group_runs
from decad.lab.runs import find_runs, read_run


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> list[Group]:
    return group_runs(find_runs([campaign(tmp_path_factory.mktemp("campaign"))]))


def names(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts if isinstance(text, Annotation)]


def lines(axes: Axes, name: str) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    return [
        (np.asarray(line.get_xdata()), np.asarray(line.get_ydata()))
        for line in axes.lines
        if line.get_label() == name
    ]


def test_a_line_is_the_mean_over_the_seeds_and_its_band_one_deviation(tmp_path: Path) -> None:
    for seed, end in ((0, 1.0), (1, 1.5)):
        write_run(tmp_path / str(seed), [evaluation(0, 3.0), evaluation(20, end)], seed=seed)
    axes = plots.comparison(group_runs(find_runs([tmp_path])), STEPS, LOSS).axes[0]
    ((x, y),) = lines(axes, "deca")
    assert (list(x), list(y)) == ([0, 20], [3.0, 1.25])
    (shade,) = (part for part in axes.collections if isinstance(part, PolyCollection))
    corners = np.asarray(shade.get_paths()[0].vertices)
    at_end = corners[corners[:, 0] == 20, 1]
    assert (at_end.min(), at_end.max()) == pytest.approx((1.25 - 0.125**0.5, 1.25 + 0.125**0.5))


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.name)
def test_the_three_models_are_beside_each_other_on_one_scale(groups: Sequence[Group], axis: Axis) -> None:
    made = plots.comparison(groups, axis, LOSS)
    titles = [axes.get_title(loc="left") for axes in made.axes]
    assert titles == ["averaged model", "mean of the peers", "worst peer"]
    assert len({axes.get_ylim() for axes in made.axes}) == 1


@pytest.mark.parametrize(
    ("axis", "unit"),
    [(STEPS, "inner steps"), (BYTES, "sent by a peer (MB)"), (COMPUTE, "compute of a peer (CPU s)")],
    ids=lambda value: value.name if isinstance(value, Axis) else "",
)
def test_axes_tell_their_units(groups: Sequence[Group], axis: Axis, unit: str) -> None:
    first = plots.comparison(groups, axis, LOSS).axes[0]
    assert first.get_xlabel().removesuffix(", log scale") == unit
    assert first.get_ylabel() == "held-out loss (nats a token)"


def test_costs_that_lie_far_apart_are_on_a_logarithmic_axis_without_those_of_nothing(
    groups: Sequence[Group],
) -> None:
    last = plots.comparison(groups, BYTES, LOSS).axes[-1]
    assert last.get_xscale() == "log"
    assert last.get_xlabel().endswith("log scale")
    senders = {g.label for g in groups if g.method not in ("local", "pooled")}
    assert {name.removesuffix(" (interrupted)") for name in names(last)} == senders


def test_every_line_is_named_and_no_two_names_overlap(groups: Sequence[Group]) -> None:
    made = plots.comparison(groups, STEPS, LOSS)
    made.draw_without_rendering()
    texts = [text for text in made.axes[-1].texts if isinstance(text, Annotation)]
    assert len(texts) == len(groups)
    # The box of the text alone: an annotation's own holds its leader too.
    boxes = sorted((box.y0, box.y1) for box in map(Text.get_window_extent, texts))
    assert all(below[1] <= above[0] + 1 for below, above in pairwise(boxes))


def test_no_two_lines_look_the_same(groups: Sequence[Group]) -> None:
    axes = plots.comparison(groups, STEPS, LOSS).axes[0]
    looks = {(line.get_label(), line.get_color(), str(line.get_linestyle())) for line in axes.lines}
    named = [look for look in looks if not str(look[0]).startswith("_")]
    assert len({look[1:] for look in named}) == len({look[0] for look in named})


def test_what_it_came_to_stands_over_the_memory_that_it_took(tmp_path: Path) -> None:
    for seed, end in ((0, 1.0), (1, 1.5)):
        write_run(tmp_path / str(seed), [evaluation(0, 3.0), evaluation(20, end)], seed=seed)
    groups = group_runs(find_runs([tmp_path]))
    made = plots.against_memory(groups, LOSS)
    assert made is not None
    (axes,) = made.axes
    (container,) = axes.containers
    assert isinstance(container, ErrorbarContainer)
    total = sum(plots.memory_of(groups[0].runs).values()) / 2**20
    point = container.lines[0]
    assert point is not None
    assert np.asarray(point.get_xydata()).tolist() == [[pytest.approx(total), 1.25]]
    assert names(axes) == ["deca"]


def test_of_runs_that_did_not_end_no_memory_is_known(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [evaluation(0, 3.0)], finished=False)
    assert plots.against_memory(group_runs(find_runs([tmp_path])), LOSS) is None


def test_an_interrupted_run_ends_in_a_cross_and_is_not_averaged(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [evaluation(0, 3.0), evaluation(40, 1.0)])
    write_run(tmp_path / "b", [evaluation(0, 3.0), evaluation(20, 2.5)], seed=1, finished=False)
    axes = plots.comparison(group_runs(find_runs([tmp_path])), STEPS, LOSS).axes[0]
    assert [list(y) for _, y in lines(axes, "deca")] == [[3.0, 1.0], [3.0, 2.5]]
    (cross,) = (line for line in axes.lines if line.get_marker() == "x")
    assert np.asarray(cross.get_xydata()).tolist() == [[20, 2.5]]


def test_a_group_of_which_no_run_ended_is_called_interrupted(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [evaluation(0), evaluation(20)], finished=False)
    assert names(plots.comparison(group_runs(find_runs([tmp_path])), STEPS, LOSS).axes[-1]) == [
        "deca (interrupted)"
    ]


def test_a_run_that_diverges_does_not_flatten_the_others(groups: Sequence[Group]) -> None:
    low, high = plots.comparison(groups, STEPS, LOSS).axes[0].get_ylim()
    assert 1.5 < low < 1.9
    assert 2.374 < high < 2.6


def test_consensus_is_logarithmic_where_it_spans_much(groups: Sequence[Group]) -> None:
    assert plots.consensus(groups).axes[0].get_yscale() == "log"


def test_consensus_is_linear_where_it_does_not(groups: Sequence[Group]) -> None:
    axes = plots.consensus(groups[:1]).axes[0]
    low, high = axes.get_ylim()
    ((_, y),) = lines(axes, groups[0].label)
    assert axes.get_yscale() == "linear"
    assert low < np.nanmin(y) < np.nanmax(y) < high


def test_the_bars_are_the_parts_of_the_memory(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", [evaluation(0)], memory={"weights": 3 * 2**20, "optimiser": 2**20})
    made = plots.memory(group_runs([read_run(run)]))
    assert made is not None
    bars = [bar for bar in made.axes[0].patches if isinstance(bar, Rectangle)]
    assert [(bar.get_x(), bar.get_width()) for bar in bars] == [(0, 3), (3, 1)]
    assert names(made.axes[0]) == ["4 MiB"]


def test_one_runs_figure_has_a_thin_line_for_each_peer(tmp_path: Path) -> None:
    run = read_run(plausible(tmp_path / "a", end=2.0, peers=5, classes=4))
    made = plots.progress(run, ACCURACY)
    assert [axes.get_xlabel() for axes in made.axes] == [
        "inner steps",
        "sent by a peer (MB)",
        "compute of a peer (CPU s)",
    ]
    faint = [line for line in made.axes[0].lines if str(line.get_label()).startswith("_")]
    expected = [[100 * (e.peers[place].accuracy or 0) for e in run.evaluations] for place in range(5)]
    assert [np.asarray(line.get_ydata()).tolist() for line in faint] == expected
    assert sorted(names(made.axes[-1])) == ["averaged model", "mean of the peers", "worst peer"]


def test_the_same_data_give_the_same_files(groups: Sequence[Group], tmp_path: Path) -> None:
    def written(name: str) -> tuple[bytes, bytes]:
        made: Figure = plots.consensus(groups)
        canvas.save(made, tmp_path, name)
        return (tmp_path / f"{name}.png").read_bytes(), (tmp_path / f"{name}.svg").read_bytes()

    assert written("a") == written("b")
