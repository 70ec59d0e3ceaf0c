from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from decad.cli.main import cli
from decad.errors import ConfigError


def test_cases_as_json_and_as_a_figure(tmp_path: Path) -> None:
    asked = [
        "--peers",
        "3,5",
        "--overlay",
        "ring",
        "--steps",
        "2",
        "--figure",
        str(tmp_path / "scale"),
        "--json",
    ]
    shown = CliRunner().invoke(cli, ["lab", "network", *asked], catch_exceptions=False)
    cases = json.loads(shown.stdout)
    assert [(case["overlay"], case["peers"]) for case in cases] == [("ring", 3), ("ring", 5)]
    assert cases[0]["round_s"]["median"] == pytest.approx(640 * cases[0]["step_s"]["median"])
    assert {file.name for file in tmp_path.iterdir()} == {"scale.png", "scale.svg"}


@pytest.mark.parametrize(
    "asked",
    ["--peers few", "--peers 1", "--overlay star", "--overlay edges:a-b", "--encoding int1", "--uplink 0"],
)
def test_nonsense_is_the_operators_to_mend(asked: str) -> None:
    shown = CliRunner().invoke(cli, ["lab", "network", *asked.split()])
    assert isinstance(shown.exception, ConfigError)
