from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.families import save_tiny

from decad.cli.main import cli


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


def test_settings_of_decad_toml_count_unless_a_flag_says_otherwise(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "decad.toml").write_text('blocks = "2"\nfreeze = ["lm_head"]\n')
    monkeypatch.chdir(tmp_path)
    assert len(json.loads(run(model, "--json"))["blocks"]) == 2
    report = json.loads(run(model, "--json", "--blocks", "layers"))
    assert (len(report["blocks"]), report["frozen"]) == (3, 300 * 32)


def test_the_weights_need_not_be_there(model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    assert "layer.1" in run(tmp_path)
