"""Run directories are read as they are written, and refused with a reason."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from support.lab_runs import evaluation, write_run

from decad.errors import ConfigError
from decad.lab.runs import find_runs, read_run


def test_a_run_is_read(tmp_path: Path) -> None:
    run = read_run(
        write_run(tmp_path / "a", [evaluation(0), evaluation(20, 1.5)], options={"tau": 6}, seed=3)
    )
    assert [(e.step, e.averaged.loss) for e in run.evaluations] == [(0, 2.0), (20, 1.5)]
    assert (run.state, run.seed, run.step, run.classifies) == ("finished", 3, 20, False)
    assert (run.settings["options.tau"], run.settings["lr"]) == (6, 0.01)


def test_an_interrupted_run_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", [evaluation(0), evaluation(20)], finished=False))
    assert (run.state, run.step) == ("interrupted", 20)


def test_a_run_that_was_interrupted_before_its_first_evaluation(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "a", [], finished=False)
    (directory / "metrics.jsonl").unlink()
    assert read_run(directory).evaluations == ()


def test_a_diverged_run_is_not_finished(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", [evaluation(0)], diverged=7))
    assert (run.finished, run.state) == (False, "diverged")


def test_what_is_no_number_any_more_is_null_or_nan(tmp_path: Path) -> None:
    lines = [
        evaluation(0, math.nan),
        evaluation(20, consensus_distance=None, averaged={"loss": None, "accuracy": None}),
    ]
    first, second = read_run(write_run(tmp_path / "a", lines)).evaluations
    assert math.isnan(first.averaged.loss)
    assert math.isnan(second.averaged.loss)


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", '{"model_type": "llama"}', "names no method"),
        ("metrics.jsonl", '{"step": 0}\n', "metrics.jsonl, line 1: not an evaluation: bytes_sent"),
        ("metrics.jsonl", "nonsense\n", "metrics.jsonl, line 1: not an evaluation"),
        ("result.json", '{"finished": true}', "result.json cannot be read: memory"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, text: str, told: str) -> None:
    directory = write_run(tmp_path / "a", [evaluation(0)])
    (directory / file).write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_run(directory)


def test_lines_of_two_runs_in_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 2: step 0 after step 20"):
        read_run(write_run(tmp_path / "a", [evaluation(20), evaluation(0)]))


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no run directory and holds none"):
        find_runs([tmp_path])


def test_runs_are_found_below_a_directory_and_each_once(tmp_path: Path) -> None:
    first = write_run(tmp_path / "some" / "a", [evaluation(0)])
    second = write_run(tmp_path / "b", [evaluation(0)])
    assert {run.directory for run in find_runs([first, tmp_path])} == {first, second}
