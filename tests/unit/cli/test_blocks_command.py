from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.families import save_tiny

from decad.cli.main import cli
from decad.errors import ConfigError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("model"))


def run(model: Path, *options: str) -> str:
    shown = CliRunner().invoke(cli, ["blocks", "--model", str(model), "--seq-len", "16", *options])
    assert shown.exit_code == 0, shown.exception
    return shown.output


def test_for_machines(model: Path) -> None:
    report = json.loads(run(model, "--json", "--dtype", "bfloat16", "--freeze", "lm_head"))
    assert [block["name"] for block in report["blocks"]] == ["embedding", "layer.0", "layer.1"]
    assert all(
        block.keys() == {"name", "parameters", "bytes_per_step", "memory"} for block in report["blocks"]
    )
    assert report["trained"] == sum(block["parameters"] for block in report["blocks"])
    assert (report["frozen"], report["dtype"]) == (300 * 32, "bfloat16")
    first = report["blocks"][0]
    # Four bytes a value, row means of the second moment beside it, and little else.
    assert 4 * first["parameters"] < first["bytes_per_step"] < 4.2 * first["parameters"]


def test_for_people(model: Path) -> None:
    shown = run(model, "--blocks", "2")
    assert re.search(r"^2 blocks, [\d,]{6} parameters trained, 0 frozen\.", shown, re.MULTILINE)
    assert "Most memory: " in shown
    assert "Python and its libraries" in shown


SETTINGS = """
blocks = "2"
freeze = ["lm_head"]
dtype = "bfloat16"
batch_size = 8
micro_batch = 2
seq_len = 24
gradient_checkpointing = true
moments = "gossip"
steps = 100
"""


@pytest.fixture
def settings(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A decad.toml in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "decad.toml").write_text(f"model = '{model}'\n{SETTINGS}")
    return tmp_path


def asked(*options: str) -> Any:
    shown = CliRunner().invoke(cli, ["blocks", "--json", *options])
    assert shown.exit_code == 0, shown.exception
    return json.loads(shown.output)


def test_the_settings_of_the_daemon_count(settings: Path, model: Path) -> None:
    by_flags = run(
        model,
        *("--json", "--blocks", "2", "--freeze", "lm_head", "--dtype", "bfloat16", "--batch-size", "8"),
        *("--micro-batch", "2", "--seq-len", "24", "--gradient-checkpointing", "--moments", "gossip"),
        *("--config", os.devnull),
    )
    expected, found = json.loads(by_flags), asked()
    for report in (expected, found):  # what the process takes by then
        del report["most_memory"]["libraries"]
        for block in report["blocks"]:
            del block["memory"]
    assert found == expected
    assert (found["sequences"], found["at_once"], found["seq_len"]) == (8, 2, 24)


def test_flags_win_over_the_environment_and_that_over_the_file(
    settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DECAD_SEQ_LEN", "16")
    monkeypatch.setenv("DECAD_DTYPE", "float32")
    monkeypatch.setenv("DECAD_BATCH_SIZE", "4")
    report = asked("--batch-size", "1", "--no-gradient-checkpointing")
    assert (report["dtype"], report["seq_len"], report["sequences"]) == ("float32", 16, 1)


def test_another_settings_file(settings: Path) -> None:
    (settings / "other.toml").write_text((settings / "decad.toml").read_text().replace('"2"', '"1"'))
    assert len(asked("--config", "other.toml")["blocks"]) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "model is not set. Give --model, set DECAD_MODEL, or write"),
        (("--model", "m", "--seq-len", "many"), "--seq-len = 'many' is not accepted"),
        (("--model", "m", "--dtype", "float16"), "--dtype = 'float16' is not accepted"),
    ],
)
def test_settings_that_cannot_be_used(
    options: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(cli, ["blocks", *options])
    assert isinstance(shown.exception, ConfigError)
    assert words in str(shown.exception)


def test_the_weights_need_not_be_there(model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    assert "layer.1" in run(tmp_path)
