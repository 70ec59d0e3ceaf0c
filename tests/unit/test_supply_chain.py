"""No pickle, and no code of a model directory."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.tiny import make_tiny_llama

import decad
from decad.config import RunSpec
from decad.errors import ModelError
from decad.model.loading import load_module, load_tokenizer, read_config, what_to_train

SOURCES = sorted(Path(decad.__file__).parent.rglob("*.py"))
LOADERS = {"from_pretrained", "from_config"}
PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
                yield f"{source.name}:{node.lineno}", node


def refuses_code(call: ast.Call) -> bool:
    """Says so itself, or spreads a mapping, of which decad/model/gguf.py has the only one."""
    for keyword in call.keywords:
        if keyword.arg == "trust_remote_code":
            return isinstance(keyword.value, ast.Constant) and keyword.value.value is False
    return any(keyword.arg is None for keyword in call.keywords)


def test_every_loader_of_transformers_is_told_to_run_no_code() -> None:
    found = [(place, call) for loader in LOADERS for place, call in calls(loader)]
    assert len(found) > 5
    assert [place for place, call in found if not refuses_code(call)] == []


def test_nothing_that_unpickles_is_imported_or_called() -> None:
    imported = {
        name.split(".")[0]
        for source in SOURCES
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert imported & PICKLES == set()
    loads = [
        place
        for place, call in calls("load")
        if ast.unparse(call.func).startswith(("torch.", "np.", "numpy."))
    ]
    assert loads == []


def test_a_model_directory_with_code_is_refused_and_not_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_llama(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('the code of the model directory ran')")
    for name, key in (("config.json", "AutoModelForCausalLM"), ("tokenizer_config.json", "AutoTokenizer")):
        file = tmp_path / name
        settings = json.loads(file.read_text()) if file.exists() else {}
        value = "evil.Evil" if key != "AutoTokenizer" else ["evil.Evil", None]
        file.write_text(json.dumps({**settings, "auto_map": {key: value}, "tokenizer_class": "Evil"}))

    def asked(prompt: str = "") -> str:
        raise AssertionError(f"somebody was asked: {prompt}")

    monkeypatch.setattr("builtins.input", asked)
    attempts: list[Callable[[], object]] = [
        lambda: what_to_train(tmp_path, RunSpec()),
        lambda: load_module(tmp_path, "auto", RunSpec(task="causal-lm")),
        lambda: load_tokenizer(tmp_path, "causal-lm"),
    ]
    for model_type in ("llama", "evil"):
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": model_type}))
        for attempt in attempts:
            with suppress(
                ModelError
            ):  # what transformers knows by itself is loaded, without the directory's code
                attempt()
    with pytest.raises(ModelError, match="needs code of its own"):
        read_config(tmp_path)
