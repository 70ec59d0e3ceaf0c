"""Which runs are one line, and what it is called."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.lab_runs import evaluation, write_run

from decad.lab.groups import differing, group_runs
from decad.lab.runs import Run, read_run

Make = Callable[..., Run]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    number = itertools.count()

    def made(**settings: Any) -> Run:
        return read_run(write_run(tmp_path / str(next(number)), [evaluation(0)], **settings))

    return made


def test_runs_that_differ_in_their_seed_alone_are_one_group(make: Make) -> None:
    runs = [make(seed=0, name="first"), make(seed=0, peers=8), make(seed=1, name="second")]
    assert [group.runs for group in group_runs(runs)] == [(runs[0], runs[2]), (runs[1],)]


def labels(*runs: Run) -> list[str]:
    return [group.label for group in group_runs(runs)]


def test_a_single_group_is_called_by_its_method(make: Make) -> None:
    assert labels(make(), make(seed=1)) == ["deca"]


def test_settings_that_differ_are_told_and_no_others(make: Make) -> None:
    assert labels(
        make(spec={"lr": 0.01}),
        make(spec={"lr": 0.02, "moments": "none"}),
        make(method="local", spec={"lr": 0.003}),
    ) == ["deca rowwise lr 0.01", "deca none lr 0.02", "local lr 0.003"]


def test_a_setting_that_a_method_does_not_read_is_not_told_of_it(make: Make) -> None:
    runs = make(), make(spec={"moments": "none"}), make(method="fedavg"), make(method="badam")
    assert labels(*runs) == ["deca rowwise", "deca none", "fedavg", "badam"]


def test_options_are_told_where_they_tell_runs_of_a_method_apart(make: Make) -> None:
    runs = (
        make(method="gossip", options={"tau": 6}),
        make(method="gossip", options={"tau": 1, "exact": True}),
        make(method="dec-lora", options={"r": 8}),
    )
    assert labels(*runs) == ["gossip tau 6", "gossip tau 1 exact", "dec-lora"]


def test_labels_that_are_shortened_to_the_same_are_numbered(make: Make) -> None:
    assert labels(make(model="a/model"), make(model="b/model")) == [
        "deca model model (1)",
        "deca model model (2)",
    ]


def test_what_differs_is_listed_without_the_method(make: Make) -> None:
    groups = group_runs([make(), make(method="gossip", spec={"lr": 0.1}, options={"tau": 2})])
    assert differing(groups) == ["lr", "options.tau"]


SETTINGS = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["deca", "gossip"]),
        "moments": st.sampled_from(["rowwise", "none"]),
        "lr": st.sampled_from([0.01, 0.0100001]),
        "peers": st.integers(1, 2),
    },
    optional={"options.exact": st.booleans(), "seed": st.integers(0, 1)},
)


@given(st.lists(SETTINGS, min_size=1, max_size=8))
def test_no_two_groups_are_called_the_same(settings: list[dict[str, Any]]) -> None:
    groups = group_runs([Run(Path(), given, (), None) for given in settings])
    assert len({group.label for group in groups}) == len(groups)
