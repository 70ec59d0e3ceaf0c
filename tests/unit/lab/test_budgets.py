"""What stands in the tables at equal steps, bytes and compute."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.lab_runs import evaluation, write_run

from decad.lab.budgets import budget_of, plain, standing, standing_table
from decad.lab.curves import BYTES, COMPUTE, STEPS
from decad.lab.groups import Group, group_runs
from decad.lab.runs import Run, read_run

RULES = {"gossip": 3e6, "none": 2e6, "rowwise": 1e6}
"""Bytes of a step."""
Make = Callable[..., Run]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    number = itertools.count()

    def made(
        method: str, losses: dict[int, float], sent: float = 1e6, compute: float = 1.0, **settings: Any
    ) -> Run:
        """``losses`` by step; ``sent`` and ``compute`` a step."""
        lines = [evaluation(s, loss, sent=sent * s, compute=compute * s) for s, loss in losses.items()]
        return read_run(write_run(tmp_path / str(next(number)), lines, method=method, **settings))

    return made


def groups(*runs: Run) -> list[Group]:
    return group_runs(runs)


def cells(table: str, label: str) -> list[str]:
    (row,) = (line for line in table.splitlines() if line.startswith(f"| {label} "))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_budget_is_what_deca_spends(make: Make) -> None:
    found = groups(make("gossip", {0: 3, 10: 1}, sent=9e6), make("deca", {0: 3, 20: 1}))
    assert [budget_of(found, axis) for axis in (STEPS, BYTES, COMPUTE)] == [20, 20, 20]


def test_of_several_rules_the_default_one_decides(make: Make) -> None:
    rules = [make("deca", {0: 3, 20: 1}, sent=sent, spec={"moments": rule}) for rule, sent in RULES.items()]
    assert budget_of(groups(*rules), BYTES) == 20


def test_without_deca_it_is_what_the_first_that_spends_any_does(make: Make) -> None:
    found = groups(make("local", {0: 3, 10: 1}, sent=0), make("gossip", {0: 3, 10: 1}, sent=9e6))
    assert budget_of(found, BYTES) == 90


def test_totals_that_are_nearly_the_same_are_compared_at_the_least(make: Make) -> None:
    found = groups(
        make("deca", {0: 3, 10: 1}, compute=1.0),
        make("gossip", {0: 3, 10: 1}, compute=0.95),
        make("dec-lora", {0: 3, 10: 1}, compute=0.5),
    )
    assert budget_of(found, COMPUTE) == 9.5


def test_runs_that_did_not_end_do_not_decide_on_the_budget(make: Make) -> None:
    found = groups(make("deca", {0: 3, 20: 1}), make("deca", {0: 3, 10: 1}, seed=1, finished=False))
    assert budget_of(found, STEPS) == 20


def test_nobody_sends_anything_and_nothing_is_compared_by_it(make: Make) -> None:
    assert budget_of(groups(make("local", {0: 3, 10: 1}, sent=0)), BYTES) is None


def test_a_score_is_mean_and_deviation_over_the_seeds(make: Make) -> None:
    found = groups(make("deca", {0: 3, 20: 2.0}), make("deca", {0: 3, 20: 2.01}, seed=1))
    assert cells(standing_table(standing(found, STEPS, 20)), "deca")[1] == "2.005 ± 0.007"


def test_how_far_one_is_behind_is_of_runs_of_the_same_seed(make: Make) -> None:
    runs = [make("deca", {0: 3, 20: loss}, seed=seed) for seed, loss in ((1, 1.0), (2, 2.0))]
    rivals = [make("gossip", {0: 3, 20: loss}, seed=seed) for seed, loss in ((2, 2.3), (1, 1.1), (3, 0.9))]
    table = standing_table(standing(groups(*runs, *rivals), STEPS, 20))
    # gossip comes first for a seed that deca did not run
    assert [cells(table, method)[4] for method in ("gossip", "deca")] == ["-", "-0.2000 ± 0.1414"]


def test_a_score_between_evaluations_is_interpolated(make: Make) -> None:
    table = standing_table(standing(groups(make("deca", {0: 3, 20: 2})), BYTES, 5))
    assert cells(table, "deca")[1] == "2.750"


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ({"method": "gossip", "losses": {0: 3, 10: 1}}, "not reached, ends at 1.000"),
        ({"method": "gossip", "losses": {0: 3, 10: 1}, "sent": 0}, "needs none, ends at 1.000"),
        ({"method": "gossip", "losses": {0: 3, 10: 1}, "diverged": 12}, "diverged"),
        ({"method": "gossip", "losses": {0: 3, 20: math.nan}}, "diverged"),
    ],
)
def test_why_there_is_no_score(make: Make, run: dict[str, Any], told: str) -> None:
    assert cells(standing_table(standing(groups(make(**run)), BYTES, 20)), "gossip")[1] == told


def test_it_is_told_how_many_of_the_runs_a_score_is_of(make: Make) -> None:
    found = groups(make("deca", {0: 3, 20: 1}), make("deca", {0: 3, 10: 1}, seed=1, finished=False))
    assert cells(standing_table(standing(found, STEPS, 20)), "deca (1 of 2 runs)")[1] == "1.000"


def test_the_best_come_first_and_those_without_a_score_last(make: Make) -> None:
    runs = (
        make("local", {0: 3, 10: 1}),
        make("deca", {0: 3, 20: math.nan}),
        make("gossip", {0: 3, 20: 2}),
        make("fedavg", {0: 3, 20: 1}),
    )
    rows = standing(groups(*runs), STEPS, 20).rows
    assert [row.group.label for row in rows] == ["fedavg", "gossip", "deca", "local"]


def test_classifiers_are_judged_by_accuracy_first(tmp_path: Path) -> None:
    score = {"loss": 1.0, "accuracy": 0.75}
    run = write_run(
        tmp_path / "a", [evaluation(0, averaged=score, peers=[score, {"loss": 2.0, "accuracy": 0.25}])]
    )
    table = standing_table(standing(group_runs([read_run(run)]), STEPS, 0))
    assert cells(table, "deca")[1:7] == ["75.0 %", "50.0 %", "25.0 %", "1.000", "1.500", "2.000"]


def test_for_machines_nothing_is_rounded_and_nothing_is_nan(make: Make) -> None:
    found = groups(
        make("deca", {0: 3, 30: 1.0}), make("gossip", {0: 3, 30: math.nan}), make("fedavg", {0: 3})
    )
    rows = {row["label"]: row["averaged_loss"] for row in plain(standing(found, STEPS, 10))["rows"]}
    assert rows == {
        "deca": {"mean": pytest.approx(7 / 3), "std": None},
        "gossip": {"mean": None, "std": None},
        "fedavg": None,
    }
