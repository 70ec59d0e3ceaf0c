from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.tiny import make_tiny_llama

from decad.errors import ConfigError, OperatorError
from decad.lab.experiment import load_experiment
from decad.lab.run import run
from decad.lab.runs import read_run
from decad.lab.sweep import State, read_plan, sweep

PLANS = sorted((Path(__file__).parents[3] / "deploy/lab").glob("*.toml"))
SMALL = """
model = "model"
data = ["a.txt", "b.txt"]
peers = 2
steps = 4
inner_steps = 2
eval_every = 4
eval_units = 8
seq_len = 16
batch_size = 2
threads = 1
"""
SWEEP = """
lr = [1e-9, 0.01]
seeds = [1, 2]
[[variants]]
name = "with mixing"
[[variants]]
name = "alone"
method = "local"
lr = [0.01]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    make_tiny_llama(folder / "model", hidden=16)
    for name, word in (("a", "hello "), ("b", "12345 ")):
        (folder / f"{name}.txt").write_text(word * 300)
    (folder / "plan.toml").write_text(SMALL + SWEEP)
    return folder


def test_each_variant_runs_at_its_best_rate_and_nothing_twice(folder: Path, tmp_path: Path) -> None:
    states: list[State] = []
    plan = read_plan(folder / "plan.toml")
    assert sweep(plan, tmp_path / "runs", 1, states.append) == {"with mixing": 0.01, "alone": 0.01}
    made = {str(path.parent.relative_to(tmp_path / "runs")) for path in tmp_path.rglob("result.json")}
    assert made == {
        *("grid/with-mixing/lr-1e-09-seed-0", "grid/with-mixing/lr-0.01-seed-0"),
        *(f"seeds/{name}/lr-0.01-seed-{seed}" for name in ("with-mixing", "alone") for seed in (1, 2)),
    }
    assert (states[0].done, states[0].of) == (0, 2)
    assert (states[-1].done, states[-1].of) == (4, 4)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    sweep(plan, tmp_path / "runs", 1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == before


@pytest.mark.parametrize(("said", "used"), [("", 4), ("threads = 2\n", 2)])
def test_runs_share_the_processors_unless_the_plan_sets_threads(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, used: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    (folder / "threads.toml").write_text(
        SMALL.replace("threads = 1\n", said) + "lr = [0.01]\n" + "seeds = [1]\n[[variants]]\nname = 'x'"
    )
    sweep(read_plan(folder / "threads.toml"), tmp_path, 1)
    assert load_experiment(tmp_path / "seeds/x/lr-0.01-seed-1").threads == used


def test_runs_of_another_plan_are_not_taken_for_those_of_this(folder: Path, tmp_path: Path) -> None:
    plan = read_plan(folder / "plan.toml", ["alone"])
    before = plan.experiment(plan.variants[0], 0.01, 1).model_copy(update={"steps": 2})
    run(before, tmp_path / "seeds/alone/lr-0.01-seed-1")
    with pytest.raises(ConfigError, match="holds a run with other settings than the plan has now"):
        sweep(plan, tmp_path, 1)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("seeds = [1]", "needs seeds"),
        (
            "lr = [0.1]\nseeds = [0, 1]\n[[variants]]\nname = 'x'",
            "seed 0 is the one by which rates are chosen",
        ),
        ("lr = [0.1]\nseeds = [1]\n[[variants]]\nmethod = 'deca'", "each variant needs a name"),
        ("seeds = [1]\nlr = 0.1\n[[variants]]\nname = 'x'", "a list of rates"),
        (
            "lr = [0.1]\nseeds = [1]\n[[variants]]\nname = 'x'\n[[variants]]\nname = 'x'",
            "there is a name twice",
        ),
        ("lr = [0.1]\nseeds = [1]\n[[variants]]\nname = 'x'\nspeed = 3", "there is no setting speed"),
    ],
)
def test_a_plan_that_is_none_is_refused(folder: Path, more: str, words: str) -> None:
    (folder / "bad.toml").write_text(SMALL + more)
    with pytest.raises(ConfigError, match=words):
        read_plan(folder / "bad.toml")


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.stem)
def test_the_plans_that_come_with_decad_can_be_read(plan: Path) -> None:
    assert read_plan(plan).variants


def test_a_variant_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no variant speed\. The variants are with mixing, alone"):
        read_plan(folder / "plan.toml", ["speed"])


class TestRun:
    def test_what_is_written_is_what_reports_read(self, folder: Path, tmp_path: Path) -> None:
        plan = read_plan(folder / "plan.toml")
        result = run(plan.experiment(plan.variants[0], 0.01, 5), tmp_path / "run")
        found = read_run(tmp_path / "run")
        assert found.finished
        assert [evaluation.step for evaluation in found.evaluations] == [0, 4]
        assert found.evaluations[-1].bytes_sent > 0
        assert result["diverged"] is None
        assert json.loads((tmp_path / "run/config.json").read_text())["seed"] == 5

    def test_one_that_diverges_says_when(self, folder: Path, tmp_path: Path) -> None:
        plan = read_plan(folder / "plan.toml")
        tame = plan.experiment(plan.variants[0], 1.0, 1)
        wild = tame.model_copy(update={"steps": 400, "spec": tame.spec.model_copy(update={"lr": 1e30})})
        result = run(wild, tmp_path / "run")
        assert result["diverged"] is not None
        assert read_run(tmp_path / "run").result is not None

    def test_one_that_mixes_now_and_then_diverges_too_and_leaves_what_can_be_read(
        self, folder: Path, tmp_path: Path
    ) -> None:
        plan = read_plan(folder / "plan.toml")
        settings = {
            **plan.variants[0],
            "method": "gossip",
            "options": {"every": 50},
            "steps": 60,
            "eval_every": 1,
        }
        tame = plan.experiment(settings, 1.0, 1)
        result = run(
            tame.model_copy(update={"spec": tame.spec.model_copy(update={"lr": 1e30})}), tmp_path / "run"
        )
        assert result["diverged"] is not None
        assert "NaN" not in (tmp_path / "run/metrics.jsonl").read_text()
        assert len(read_run(tmp_path / "run").evaluations) == result["diverged"] + 1

    def test_what_cannot_begin_leaves_no_directory(self, folder: Path, tmp_path: Path) -> None:
        plan = read_plan(folder / "plan.toml")
        experiment = plan.experiment(plan.variants[0], 0.01, 5)
        with pytest.raises(OperatorError):
            run(experiment.model_copy(update={"model": tmp_path / "none"}), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_finished_run_is_not_begun_again(self, folder: Path, tmp_path: Path) -> None:
        plan = read_plan(folder / "plan.toml")
        experiment = plan.experiment(plan.variants[0], 0.01, 5)
        run(experiment, tmp_path / "run")
        with pytest.raises(ConfigError, match="holds a finished run"):
            run(experiment, tmp_path / "run")

    def test_a_directory_of_something_else_is_left_alone(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        plan = read_plan(folder / "plan.toml")
        with pytest.raises(ConfigError, match="holds something else"):
            run(plan.experiment(plan.variants[0], 0.01, 5), tmp_path)
