"""The commands that make runs again: an experiment's file of what they share, and a command each for the rest."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from decad.lab.runs import Run

NOT_SET = frozenset({"run", "model_hash", "plan_hash"})
"""Fields of the run spec that an experiment does not set."""
FILE = "experiment.toml"


def experiment_file(runs: Sequence[Run]) -> str:
    """TOML of the settings that all ``runs`` share; paths as they were given."""
    shared = _shared(runs)
    options = {name: value for name, value in shared.items() if name.startswith("options.")}
    lines = [f"{name} = {_toml(value)}" for name, value in shared.items() if name not in options]
    if options:
        lines += [
            "",
            "[options]",
            *(f"{name.removeprefix('options.')} = {_toml(value)}" for name, value in options.items()),
        ]
    return "\n".join(lines)


def command(run: Run, runs: Sequence[Run]) -> str:
    """That of ``run``, beside the file that `experiment_file` gives of ``runs``."""
    shared = _shared(runs)
    own = {name: value for name, value in _settable(run).items() if name not in shared}
    words = [f"--set {shlex.quote(f'{name}={_word(value)}')}" for name, value in own.items()]
    return " ".join(["decad lab run", FILE, *words, "--into", shlex.quote(str(run.directory))])


def _shared(runs: Sequence[Run]) -> dict[str, Any]:
    first, *others = map(_settable, runs)
    return {
        name: value
        for name, value in first.items()
        if all(name in other and other[name] == value for other in others)
    }


def _settable(run: Run) -> Mapping[str, Any]:
    return {
        name: value
        for name, value in run.settings.items()
        if name not in NOT_SET and value not in (None, "", [])
    }


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # of these kinds of values, JSON is TOML


def _word(value: Any) -> str:
    """As `--set` takes it: bare text, in quotes only where it would be read as a number or the like."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    if not isinstance(value, str):
        return _toml(value)
    try:
        tomllib.loads(f"v = {value}")
    except tomllib.TOMLDecodeError:
        return value
    return _toml(value)
