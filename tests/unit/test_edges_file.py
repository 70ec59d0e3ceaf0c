"""An overlay's edges in a file: what the peers agree on is the edges, wherever each of them keeps its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from decad.config import RunSpec
from decad.errors import ConfigError
from decad.settings import load_settings


def spec_of(overlay: str) -> RunSpec:
    return load_settings({"model": "m", "data": "d", "overlay": overlay}, environ={})[0]


def test_a_file_of_edges_is_the_same_run_as_the_edges_themselves(tmp_path: Path) -> None:
    file = tmp_path / "edges.txt"
    file.write_text("# the cellar\nanna-ben\n\nben-carl, carl-dora  # upstairs\n", encoding="utf-8")
    written = spec_of("edges:anna-ben,ben-carl,carl-dora")
    assert spec_of(f"edges:@{file}").fingerprint == written.fingerprint


def test_a_file_without_edges_is_the_operators_to_mend(tmp_path: Path) -> None:
    (tmp_path / "edges.txt").write_text("# none yet\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--overlay: .*edges\.txt lists no edge"):
        spec_of(f"edges:@{tmp_path / 'edges.txt'}")
