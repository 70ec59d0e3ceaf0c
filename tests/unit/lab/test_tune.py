"""Finding a rate by short runs."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from support.tiny import make_tiny_llama

from decad.cli.main import cli
from decad.config import PeerConfig, RunSpec
from decad.core.batch import Batch
from decad.data.position import DataPosition
from decad.errors import ConfigError, DataError
from decad.lab import tune
from decad.lab.engine import Laboratory
from decad.lab.experiment import make_experiment
from decad.lab.tune import Trial, Tuner, shortened

CPU = torch.device("cpu")
FOREVER = 1e9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    make_tiny_llama(folder / "model", hidden=16)
    (folder / "text.txt").write_text("".join(f"{i} and {i * i % 97}, " for i in range(2000)))
    return folder


def config(folder: Path, tmp_path: Path, **settings: object) -> PeerConfig:
    given = {"model": folder / "model", "data": (folder / "text.txt",), "state_dir": tmp_path, "seq_len": 16}
    return PeerConfig.model_validate({**given, **settings})


def tuner(folder: Path, tmp_path: Path, machines: int = 1, **spec: object) -> Tuner:
    asked = RunSpec.model_validate({"inner_steps": 4, **spec})
    return Tuner(asked, config(folder, tmp_path), CPU, machines, lambda text: None)


def test_the_best_rate_is_inside_of_the_grid_and_wins_with_the_longest_runs(
    folder: Path, tmp_path: Path
) -> None:
    found = tuner(folder, tmp_path, lr=1e-5).tune(16, FOREVER)
    first = [t.lr for t in found.trials if t.steps == 4]
    best = min((t for t in found.trials if t.steps == 4), key=lambda t: t.loss).lr
    assert best > 4e-5  # beyond the grid around 1e-5
    assert best < max(first) or max(first) == pytest.approx(64e-5)
    assert [sum(t.steps == steps for t in found.trials) for steps in (8, 16)] == [3, 2]
    assert found.best.loss == min(t.loss for t in found.trials if t.steps == 16)
    assert found.best.loss < found.base


def test_each_run_begins_with_the_base_model(folder: Path, tmp_path: Path) -> None:
    made = tuner(folder, tmp_path, adapters=2)
    found = made.tune(8, FOREVER)
    again = made.tune(8, FOREVER)
    assert again.trials[: len(again.trials)] == found.trials[: len(again.trials)]


def test_one_machine_is_one_that_trains_alone(folder: Path, tmp_path: Path) -> None:
    made = tuner(folder, tmp_path, adapters=2, warmup=0.25, schedule="linear:10")
    assert made._run(1e-2, 2e-2, 10, 10)
    experiment = make_experiment(
        {
            **{
                "model": folder / "model",
                "data": [folder / "text.txt"],
                "peers": 1,
                "names": ("",),
                "seq_len": 16,
            },
            **{"steps": 10, "inner_steps": 4, "adapters": 2, "lr": 1e-2, "adapter_lr": 2e-2, "batch_size": 4},
            **{"moments": "none", "schedule": "linear:10", "settle": 0},
        }
    )
    lab = Laboratory(experiment)
    for step in range(10):
        lab.step(step)
    for block in made._model.blocks:
        expected = lab.peers[0].model.block(block.index)
        assert torch.allclose(made._model.block(block.index), expected, atol=1e-5)


def of_batch(batch: Batch, position: DataPosition, batch_size: int) -> tuple[Batch, DataPosition]:
    return batch, position


def test_several_machines_have_the_mean_of_their_moves(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tuner(folder, tmp_path), tuner(folder, tmp_path, machines=2)
    batches = [two._data.batch(DataPosition(4 * k), 4)[0] for k in range(2)]
    start = one._model.block(2)
    moves = []
    for k in range(2):
        monkeypatch.setattr(one._data, "batch", partial(of_batch, batches[k]))
        assert one._run(1e-2, 0.0, 1, 1)
        moves.append(one._model.block(2) - start)
    assert two._run(1e-2, 0.0, 1, 1)
    assert not torch.allclose(moves[0], moves[1], atol=1e-4)
    assert torch.allclose(two._model.block(2) - start, (moves[0] + moves[1]) / 2, atol=1e-6)


def test_a_schedule_is_shortened_with_the_run() -> None:
    spec = RunSpec(schedule="cosine:1000:0.1", lr=1e-3, inner_steps=20)
    assert shortened(spec, 100, 1000).schedule == "cosine:100:0.1"
    assert shortened(RunSpec(), 100, 1000).schedule == "constant"
    assert shortened(spec, 100, 1000).inner_steps == 20


def test_the_grid_grows_until_the_best_is_not_at_its_edge() -> None:
    def trials(losses: dict[float, float]) -> dict[float, Trial]:
        return {factor: Trial(factor, 0.0, 1, loss) for factor, loss in losses.items()}

    assert tune._beyond(trials({1: 3.0, 2: 2.0, 4: 2.5})) is None
    assert tune._beyond(trials({1: 1.0, 2: 2.0})) == 0.5
    assert tune._beyond(trials({1: 2.0, 2: 1.0})) == 4
    assert tune._beyond(trials({1: math.inf, 2: math.inf})) == 0.5
    assert tune._beyond(trials({32: 2.0, 64: 1.0})) is None
    with pytest.raises(ConfigError, match="Every rate diverged"):
        tune._beyond(trials({1 / 128: math.inf, 1: math.inf}))


def test_nothing_held_out_is_nothing_to_compare_by(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="held-out"):
        Tuner(RunSpec(), config(folder, tmp_path, held_out=0.0), CPU, 1, lambda text: None)


def test_the_command_prints_a_table_and_the_lines_for_the_settings(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [
        "--model",
        str(folder / "model"),
        "--data",
        str(folder / "text.txt"),
        "--seq-len",
        "16",
        "--steps",
        "8",
    ]
    plain = CliRunner().invoke(
        cli, ["tune", *flags, "--adapters", "2", "--machines", "2"], catch_exceptions=False
    )
    assert plain.exit_code == 0
    table, rest = plain.stdout.split("Held-out loss in nats")
    assert table.splitlines()[0].split() == ["lr", "adapter_lr", *["2", "steps", "4", "steps", "8", "steps"]]
    assert sum("best" in line for line in table.splitlines()) == 1
    assert "    lr = " in rest
    assert "    adapter_lr = " in rest
    as_json = CliRunner().invoke(cli, ["tune", *flags, "--json"], catch_exceptions=False)
    found = json.loads(as_json.stdout)
    assert found["best"]["lr"] in [trial["lr"] for trial in found["trials"]]
    assert found["steps"] == found["longest"] == 8
    assert list(tmp_path.iterdir()) == []
