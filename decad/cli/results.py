"""`decad export`, `eval` and `model import`: a base model and a checkpoint, beside the daemon or without it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import reduce
from pathlib import Path

import click
import torch
from torch import Tensor

from decad.cli.client import save
from decad.config import RunSpec
from decad.core.batch import Score
from decad.daemon.device import choose_device
from decad.daemon.loading import DRAWN_BY
from decad.data.local import data_seed, load_data
from decad.errors import NoDaemonError, StateError
from decad.model.dtypes import DTYPES
from decad.model.export import export_adapters, export_model
from decad.model.gguf import import_gguf
from decad.model.length import sequence_length
from decad.model.trainable import TrainableModel
from decad.model.weights import BaseWeights
from decad.paths import user_path
from decad.state.checkpoint import Checkpoint, open_checkpoint
from decad.state.weights import TrainedBlocks

ONE_MODEL = 1e-3
"""Peers whose blocks are no further apart than this, relative to their length, have one model."""


def export_to(directory: Path, state_dir: Path, base: Path, dtype: str, adapter: bool) -> None:
    """Write a Hugging Face directory of the peer's model, or a directory of its adapters as peft has them."""
    _save_if_running(state_dir)
    with open_checkpoint(state_dir) as checkpoint:
        found = _checked(checkpoint, state_dir, base)
        blocks, spec = TrainedBlocks(found), RunSpec.from_saved(found.run.spec)
        if adapter:
            export_adapters(base, directory, blocks, spec)
        else:
            export_model(base, directory, blocks, spec, DTYPES.get(dtype))
        step, apart = found.run.step, found.run.apart
    if adapter:
        click.echo(f"Wrote {directory}: the adapters of step {step}. Load them with peft's from_pretrained.")
    else:
        click.echo(
            f"Wrote {directory}: the model of step {step}. Load it with transformers' from_pretrained."
        )
    if apart:
        furthest = max(apart.values())
        share = f"{max(furthest, 1e-4):.2%}"
        click.echo(f"When each block was last mixed, the neighbours' were within {share} of this peer's.")
        if furthest > ONE_MODEL:
            click.echo(
                "So each peer exports a model of its own, and the average of all is likely to be better. A run whose "
                "schedule falls to zero (--schedule linear:STEPS) brings the peers to one model at its end (--settle)."
            )


def evaluate_on(
    model: Path,
    data: str,
    state_dir: Path | None,
    base: bool,
    name: str | None,
    seed: int | None,
    seq_len: int | None,
    batch_size: int,
    held_out: float,
    batches: int,
    device: str,
    task: str,
    labels: str,
    as_json: bool,
) -> None:
    """Print the mean loss in nats a token; of a classifier, the accuracy too.

    ``base``: the base model's, though on what the peer of ``state_dir`` holds out. ``name`` and ``seed``: whose split
    that is; None: as the checkpoint says.
    """
    step, drawn_by, run_seed = None, "", 0
    if state_dir is not None:
        _save_if_running(state_dir)
        with open_checkpoint(state_dir) as checkpoint:
            found = _checked(checkpoint, state_dir, model)
            trained = RunSpec.from_saved(found.run.spec)
            trainable = TrainableModel.load(model, choose_device(device), torch.float32, trained)
            drawn_by, run_seed = str(found.run.data.get(DRAWN_BY, "")), trained.seed
            if not base:
                _apply(trainable, TrainedBlocks(found))
                step = found.run.step
    else:
        asked = RunSpec.model_validate({"task": task, "labels": _parts(labels)})
        trainable = TrainableModel.load(model, choose_device(device), torch.float32, asked)
    seq_len = sequence_length(seq_len, trainable.context_length)
    paths = [user_path(part) for part in _parts(data)]
    spec = trainable.spec
    split = data_seed(run_seed if seed is None else seed, drawn_by if name is None else name)
    text = load_data(paths, trainable.tokenizer, spec.task, spec.labels, seq_len, held_out, split)
    held = list(text.held_out_batches(batch_size, batches))
    score = reduce(Score.plus, map(trainable.evaluate, held)) if held else Score(0.0, 0)
    if not score.predictions:
        raise StateError("There is nothing held out to evaluate on. Use a --held-out above 0.")
    sequences, loss = sum(batch.inputs.shape[0] for batch in held), score.mean
    if as_json:
        click.echo(
            json.dumps(
                {
                    "loss": loss,
                    "accuracy": score.accuracy,
                    "sequences": sequences,
                    "predictions": score.predictions,
                    "step": step,
                }
            )
        )
        return
    what = "base model" if step is None else f"fine-tuned model of step {step}"
    if score.accuracy is None:
        click.echo(
            f"{what}: loss {loss:.4f} nats a token over {score.predictions} tokens of {sequences} sequences"
        )
    else:
        click.echo(f"{what}: accuracy {score.accuracy:.1%}, loss {loss:.4f} nats, over {sequences} examples")


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def import_model(file: Path, directory: Path, dtype: str) -> None:
    """GGUF -> Hugging Face directory."""
    import_gguf(file, directory, DTYPES[dtype])
    click.echo(f"Wrote {directory}. Train it with: decad start --model {directory} --data FILES")


def _save_if_running(state_dir: Path) -> None:
    try:
        save(state_dir)
    except NoDaemonError:
        return


def _apply(model: TrainableModel, blocks: Mapping[int, Tensor]) -> None:
    for index, values in blocks.items():
        model.set_block(index, values)


def _checked(checkpoint: Checkpoint | None, state_dir: Path, base: Path) -> Checkpoint:
    if checkpoint is None:
        raise StateError(
            f"There is no checkpoint in {state_dir} yet: the first is written at the end of a block phase, or when the "
            "daemon stops. Name another directory with --state-dir."
        )
    if RunSpec.from_saved(checkpoint.run.spec).model_hash != BaseWeights(base).sha256():
        raise StateError(
            f"The checkpoint in {state_dir} was trained from another base model than {base}. Give the directory "
            "that `decad start --model` had."
        )
    if checkpoint.lost:
        click.echo(f"decad: {checkpoint.lost}", err=True)
    return checkpoint
