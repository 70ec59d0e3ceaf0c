"""The command line's surface: it changes on purpose or not at all."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from decad.cli.main import cli
from decad.config import MEASURED_FIELDS, PeerConfig, RunSpec


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))


COMMANDS = sorted(_commands(cli))


def test_the_commands() -> None:
    assert [" ".join(path) for path in COMMANDS] == [
        *("blocks", "checkpoints", "checkpoints list", "checkpoints restore", "checkpoints verify"),
        *(
            "completion",
            "eval",
            "export",
            "invite",
            "join",
            "lab",
            "lab compare",
            "lab cost",
            "lab fetch",
            "lab network",
            "lab report",
            "lab run",
            "lab sweep",
            "model",
            "model import",
            "neighbors",
            "neighbours",
        ),
        *("peers", "peers allow", "peers deny", "peers list", "peers only-listed"),
        *("secret", "secret new", "secret retire", "secret rotate", "secret show"),
        *("settle", "start", "status", "stop", "tune"),
    ]


def test_every_setting_has_a_flag_and_every_flag_a_setting() -> None:
    settings = (RunSpec.model_fields.keys() | PeerConfig.model_fields.keys()) - MEASURED_FIELDS
    start = cli.commands["start"]
    flags = {p.name or "": p for p in start.params if isinstance(p, click.Option)}
    assert flags.keys() - {"config"} == settings
    assert all(f"--{name.replace('_', '-')}" in flag.opts for name, flag in flags.items())
    # A default here would hide what the file and the environment say.
    assert set(start.make_context("start", []).params.values()) == {None}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_and_every_option_is_explained(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(cli, [*path, "--help"])
    assert shown.exit_code == 0
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))
    assert command.help.splitlines()[0] in " ".join(shown.output.split())


def test_the_defaults_in_the_help_are_those_of_the_settings() -> None:
    fields = {**RunSpec.model_fields, **PeerConfig.model_fields}
    in_words = {
        "config",
        "state_dir",
        "name",
        "steps",
        "mdns",
        "labels",
        "gradient_checkpointing",
        "seq_len",
        "secret",
        "listen",
    }
    for option in cli.commands["start"].params:
        name, help_ = option.name or "", getattr(option, "help", "")
        if "[default: " in help_ and name not in in_words:
            default = fields[name].default
            assert type(default)(help_.partition("[default: ")[2].rstrip("]")) == default, name


@pytest.mark.parametrize(
    "option",
    ["--task=other", "--seq-len=0", "--batch-size=0", "--batches=0", "--held-out=1", "--seed=-1"],
)
def test_eval_refuses_values_out_of_bounds(option: str) -> None:
    shown = CliRunner().invoke(cli, ["eval", "--model", "m", "--data", "d", option])
    assert shown.exit_code == 2
    assert f"Invalid value for '{option.partition('=')[0]}'" in shown.output
