from __future__ import annotations

from pathlib import Path

import pytest
from support.disk import Disk

from decad.state.files import make_directory


def test_every_directory_made_is_durable_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path)
    with monkeypatch.context() as patch:
        disk.install(patch)
        make_directory(tmp_path / "a" / "b")
    assert disk.done == ["mkdir a", "open .", "fsync .", "mkdir a/b", "open a", "fsync a"]


def test_a_directory_that_is_there_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(tmp_path)
    with monkeypatch.context() as patch:
        disk.install(patch)
        make_directory(tmp_path)
    assert disk.done == []
