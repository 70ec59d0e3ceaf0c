"""Every command with nothing but what it needs, on every family of models and on awkward ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.families import CAUSAL, CLASSIFIERS, save_tiny
from support.tiny import make_tiny_llama

from decad.cli.main import cli
from decad.daemon.peer import Peer
from decad.settings import load_settings

WORDS = "the quick brown fox jumps over the lazy dog and runs away\n"


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def short_context(directory: Path) -> None:
    change(directory / "config.json", max_position_embeddings=48)


def no_padding(directory: Path) -> None:
    change(directory / "config.json", pad_token_id=None)
    read = json.loads((directory / "tokenizer_config.json").read_text())
    del read["pad_token"]
    (directory / "tokenizer_config.json").write_text(json.dumps(read))


def two_ends(directory: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        change(directory / name, eos_token_id=[256, 257])


def long_names(directory: Path) -> None:
    change(directory / "tokenizer_config.json", model_max_length=16)


AWKWARD: dict[str, Callable[[Path], None]] = {
    "short context": short_context,
    "no padding": no_padding,
    "two ends of text": two_ends,
    "a tokenizer that warns of length": long_names,
}


@pytest.fixture(params=[*CAUSAL, *CLASSIFIERS, *AWKWARD])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name = request.param
    if name in AWKWARD:
        directory = make_tiny_llama(tmp_path / "model")
        AWKWARD[name](directory)
        return directory
    directory = save_tiny(name, tmp_path / "model")
    if name in CLASSIFIERS:
        change(directory / "config.json", id2label={"0": "bad", "1": "good"}, label2id={"bad": 0, "good": 1})
    return directory


def invoke(*arguments: str) -> Result:
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_start_blocks_eval_and_export(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    data = tmp_path / "data.jsonl"
    data.write_text(
        "".join(json.dumps({"text": WORDS * 3, "label": ("bad", "good")[i % 2]}) + "\n" for i in range(40))
    )
    assert "parameters" in invoke("blocks", "--model", str(model)).output
    needed = {"model": str(model), "data": str(data)}
    spec, config = load_settings({**needed, "mdns": False, "steps": 1, "threads": 1})
    assert config.seq_len is None
    asyncio.run(Peer(spec, config).run())
    asked = ("--model", str(model))
    assert "loss" in invoke("eval", *asked, "--data", str(data)).output
    assert (
        "model of step 1"
        in invoke("eval", *asked, "--data", str(data), "--state-dir", str(config.state_dir)).output
    )
    assert "step 1" in invoke("export", "out", *asked).output
    assert (tmp_path / "out" / "model.safetensors").is_file()
