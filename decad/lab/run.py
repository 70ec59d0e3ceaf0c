"""One experiment -> a run directory: what was asked, every evaluation as it is made, and how it ended."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from decad import __version__
from decad.core.batch import Score
from decad.errors import ConfigError, DivergedError
from decad.lab.engine import Laboratory
from decad.lab.experiment import Experiment
from decad.lab.runs import CONFIG, METRICS, RESULT


class Moment(NamedTuple):
    """How far a run is."""

    step: int
    steps: int
    loss: float
    """Mean of the peers' training losses in the last step, nats."""
    held_out: float
    """Of the averaged model at the last evaluation."""
    left_s: float
    """Seconds; NaN until known."""


def run(
    experiment: Experiment,
    directory: Path,
    tell: Callable[[str], None] = lambda text: None,
    stepped: Callable[[Moment], None] = lambda moment: None,
) -> dict[str, Any]:
    """Run ``experiment`` into ``directory`` and return what `RESULT` holds.

    ``tell``: what is done before the first step; ``stepped``: after every step. An interrupted run's directory is
    begun anew; a finished one is refused. A run whose gradients stop being finite ends as ``diverged``. Raises
    OperatorError.
    """
    if (directory / RESULT).exists():
        raise ConfigError(f"{directory} holds a finished run. Name another directory, or remove it.")
    if directory.exists() and any(directory.iterdir()) and not (directory / CONFIG).exists():
        raise ConfigError(f"{directory} holds something else than a run. Name an empty or a new directory.")
    if experiment.threads:
        torch.set_num_threads(experiment.threads)
    begun = time.monotonic()
    laboratory = Laboratory(experiment, tell)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).write_text(experiment.model_dump_json(indent=1) + "\n")
    diverged: int | None = None
    ends = (experiment.steps, laboratory.steps)
    with (directory / METRICS).open("w", encoding="utf-8") as metrics:
        started = time.monotonic()
        last = _note(laboratory, 0, begun, metrics)
        training, evaluating = 0.0, time.monotonic() - started
        for step in range(laboratory.steps):
            started = time.monotonic()
            try:
                laboratory.step(step)
            except DivergedError:
                diverged = step
                break
            training += time.monotonic() - started
            trained = step < experiment.steps
            if ((step + 1) % experiment.eval_every == 0 and trained) or step + 1 in ends:
                started = time.monotonic()
                last = _note(laboratory, step + 1, begun, metrics)
                evaluating = time.monotonic() - started
            ahead = laboratory.steps - step - 1
            left = ahead * training / (step + 1) + math.ceil(ahead / experiment.eval_every) * evaluating
            losses = [peer.loss for peer in laboratory.peers]
            stepped(Moment(step + 1, laboratory.steps, sum(losses) / len(losses), last, left))
    result = {
        "finished": True,
        "diverged": diverged,
        "memory": laboratory.memory(),
        "parameters": sum(block.numel for block in laboratory.peers[0].model.plan.blocks),
        "blocks": laboratory.schedule.blocks,
        "wall_s": round(time.monotonic() - begun, 1),
        "decad": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch on {torch.get_num_threads()}",
    }
    (directory / RESULT).write_text(json.dumps(result, indent=1) + "\n")
    return result


def _note(laboratory: Laboratory, step: int, begun: float, metrics: Any) -> float:
    """Evaluate, write it down, and return the averaged model's loss."""
    found = laboratory.evaluate()
    peers = laboratory.peers
    line = {
        "step": step,
        "bytes_sent": sum(peer.sent for peer in peers) / len(peers),
        "compute_s": round(sum(peer.compute_s for peer in peers) / len(peers), 4),
        "wall_s": round(time.monotonic() - begun, 2),
        "averaged": _figures(found.averaged),
        "peers": [_figures(score) for score in found.peers],
        "consensus_distance": _finite(found.consensus_distance),
    }
    metrics.write(json.dumps(line) + "\n")
    metrics.flush()
    return found.averaged.mean


def _figures(score: Score) -> dict[str, float | None]:
    return {"loss": _finite(score.mean), "accuracy": score.accuracy}


def _finite(value: float) -> float | None:
    """JSON has no other numbers."""
    return value if math.isfinite(value) else None
