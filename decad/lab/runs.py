"""What lies in a run directory: settings, evaluations and, of a run that ended, its result."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from decad.errors import ConfigError

CONFIG, METRICS, RESULT = "config.json", "metrics.jsonl", "result.json"

Count = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Measured = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""JSON has no NaN: a measure of a run that diverged is null."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Score(_Record):
    """Of one model on held-out data."""

    loss: Measured
    """Mean, in nats a token; of a classifier, in nats an example."""
    accuracy: float | None = None
    """Share of the examples, of a classifier."""


class Evaluation(_Record):
    """One line of metrics.jsonl. Counters begin with the run; they are means over the peers."""

    step: Annotated[int, Field(ge=0)]
    bytes_sent: Count
    compute_s: Count
    """CPU seconds."""
    wall_s: Count
    averaged: Score
    """Of the model that is the mean of the peers'."""
    peers: Annotated[tuple[Score, ...], Field(min_length=1)]
    consensus_distance: Measured
    """Root of the mean over peers of the squared distance to the averaged model."""


class Result(_Record):
    """What is known when a run has ended."""

    finished: bool
    diverged: int | None = None
    """Step whose gradient was not finite any more: the run ended there."""
    memory: Mapping[str, Count]
    """Part -> bytes of one peer at their largest."""
    wall_s: Count
    decad: str
    """Version."""
    machine: str


@dataclass(frozen=True)
class Run:
    """One run directory."""

    directory: Path
    settings: Mapping[str, Any]
    """The experiment's and the run spec's, flat; of the method's options, ``options.NAME``."""
    evaluations: tuple[Evaluation, ...]
    """At rising steps; empty if the run was interrupted before the first."""
    result: Result | None
    """None: it was interrupted."""

    @property
    def finished(self) -> bool:
        """Whether all its steps were taken."""
        return self.result is not None and self.result.finished and self.result.diverged is None

    @property
    def state(self) -> str:
        """finished | diverged | interrupted."""
        if self.result is not None and self.result.diverged is not None:
            return "diverged"
        return "finished" if self.finished else "interrupted"

    @property
    def method(self) -> str:
        return str(self.settings["method"])

    @property
    def seed(self) -> Any:
        return self.settings.get("seed")

    @property
    def step(self) -> int:
        """The last that was evaluated."""
        return self.evaluations[-1].step if self.evaluations else 0

    @property
    def classifies(self) -> bool:
        return any(evaluation.averaged.accuracy is not None for evaluation in self.evaluations)


def find_runs(directories: Iterable[Path]) -> list[Run]:
    """Of run directories, and of all those below the others; each once. Raises ConfigError if there is none."""
    found: dict[Path, Run] = {}
    for given in directories:
        inside = [given] if (given / CONFIG).exists() else sorted(_below(given))
        if not inside:
            raise ConfigError(
                f"{given} is no run directory and holds none: there is no {CONFIG} beside a {METRICS}. "
                "Give a directory that `decad lab run` has written, or one that holds such directories."
            )
        for directory in inside:
            if directory.resolve() not in found:
                found[directory.resolve()] = read_run(directory)
    return list(found.values())


def _below(directory: Path) -> Iterator[Path]:
    return (file.parent for file in directory.rglob(METRICS) if (file.parent / CONFIG).exists())


def read_run(directory: Path) -> Run:
    """Raises ConfigError if the directory is none of a run, or a file in it is damaged."""
    file = directory / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{directory} is no run directory: there is no {CONFIG} in it. Give one that `decad lab run` has written."
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}. Run the experiment again.") from None
    if not isinstance(config, dict) or "method" not in config:
        raise ConfigError(
            f"{file} is not that of an experiment: it names no method. Give a directory that `decad lab run` has "
            "written."
        )
    result = _result(directory / RESULT)
    return Run(directory, _flat(config), tuple(_evaluations(directory / METRICS, result is None)), result)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    spec = config.get("spec", {})
    options = {f"options.{name}": value for name, value in config.get("options", {}).items()}
    own = {name: value for name, value in config.items() if name not in ("spec", "options")}
    return {**spec, **own, **options}


def _result(file: Path) -> Result | None:
    try:
        return Result.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {_why(error)}. Run the experiment again.") from None


def _evaluations(file: Path, interrupted: bool) -> Iterator[Evaluation]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        lines = [""]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}. Run the experiment again.") from None
    if interrupted:
        lines.pop()  # empty, or the beginning of a line that was never written to its end
    step = -1
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            evaluation = Evaluation.model_validate_json(line)
        except ValidationError as error:
            raise ConfigError(
                f"{file}, line {number}: not an evaluation: {_why(error)}. Run the experiment again."
            ) from None
        if evaluation.step <= step:
            raise ConfigError(
                f"{file}, line {number}: step {evaluation.step} after step {step}: two runs wrote into one directory. "
                "Run the experiment again into an empty one."
            )
        step = evaluation.step
        yield evaluation


def _why(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]
