"""What a peer has before it meets anybody: its last checkpoint, the model, the data, and the terms to begin with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from decad.config import LOADED_FIELDS, MEASURED_FIELDS, PeerConfig, RunSpec
from decad.daemon.admission import Terms
from decad.daemon.compute import ComputeThread
from decad.daemon.device import available_memory, choose_dtype, is_emulated
from decad.daemon.progress import Notices, Progress
from decad.data.local import LocalData, PackedData, data_seed, load_data
from decad.data.source import Source
from decad.errors import ConfigError, StateError
from decad.membership.agreement import Refuse, agree, parse_spec
from decad.model.length import check_length
from decad.model.room import check_room
from decad.model.trainable import TrainableModel
from decad.state.checkpoint import Checkpoint, CheckpointStore
from decad.state.weights import TrainedBlocks

log = logging.getLogger("decad")

ModelLoader = Callable[[RunSpec, PeerConfig, torch.device], TrainableModel]
DataLoader = Callable[[int, PeerConfig, TrainableModel, Callable[[str], None]], Source]
"""(the run's seed, settings, model, what is told of what is waited for) -> data.

Called on the compute thread, and again when the run turns out to have another seed.
"""


@dataclass(frozen=True)
class Loaded:
    """All that was read, with the model's trained blocks as they were saved."""

    store: CheckpointStore
    checkpoint: Checkpoint | None
    model: TrainableModel
    data: Source
    terms: Terms


async def load(
    spec: RunSpec,
    config: PeerConfig,
    device: torch.device,
    compute: ComputeThread,
    load_model: ModelLoader,
    load_data: DataLoader,
    progress: Progress,
    notices: Notices,
) -> Loaded:
    """Read it all on the compute thread, and tell ``progress`` what is waited for. Raises OperatorError."""
    progress.wait_for("the checkpoint to be read")
    store = CheckpointStore(config.state_dir)
    checkpoint = await compute.run(store.load)
    log.info("loading %s", config.model or "the model")
    progress.wait_for(f"the model {config.model or ''} to be loaded")
    model = await compute.run(load_model, _as_before(spec, checkpoint), config, device)
    log.info("%d blocks, %.1f M parameters", len(model.plan), model.plan.numel / 1e6)
    progress.wait_for("the data to be read")
    data = await compute.run(load_data, model.spec.seed, config, model, progress.wait_for)
    if isinstance(data, LocalData) and data.corpus.skipped:
        notices.add(
            f"{data.corpus.skipped} records of the data are bad and were left out; the log of the start that "
            "read them names the first ones."
        )
    terms = _terms(model.spec, checkpoint, config)
    if checkpoint is not None:
        await _restore(model, checkpoint, compute)
        progress.step = checkpoint.run.step
        log.info("continuing at step %d", checkpoint.run.step)
        if checkpoint.lost and notices.add(checkpoint.lost):
            log.warning(checkpoint.lost)
    return Loaded(store, checkpoint, model, data, terms)


def load_directory(spec: RunSpec, config: PeerConfig, device: torch.device) -> TrainableModel:
    """The Hugging Face model of the settings. Raises OperatorError."""
    if config.model is None:
        raise ConfigError("There is no model. Give the directory of one, or a module of your own.")
    dtype = choose_dtype(config.dtype, device)
    if is_emulated(dtype, device):
        log.warning("this processor has no bf16 arithmetic: --dtype float32 is many times faster")
    check_room(config.model, spec, dtype, str(device), available_memory(device))
    return TrainableModel.load(
        config.model,
        device,
        dtype,
        spec,
        micro_batch=config.micro_batch,
        checkpointing=config.gradient_checkpointing,
    )


def load_files(seed: int, config: PeerConfig, model: TrainableModel, tell: Callable[[str], None]) -> Source:
    """The data of the settings. ``tell`` hears now and then what is waited for. Raises OperatorError."""
    check_length(config.seq_len, model.context_length)
    data = load_data(
        config.data,
        model.tokenizer,
        model.spec.task,
        model.spec.labels,
        config.seq_len,
        config.held_out,
        data_seed(seed, config.name),
        keep=config.state_dir,
        strict=config.strict_data,
        tell=tell,
    )
    what = f"sequences of {config.seq_len} tokens" if isinstance(data, PackedData) else "examples"
    log.info("%d %s to train on, %d held out", data.train_sequences, what, data.held_out)
    return data


def _as_before(spec: RunSpec, checkpoint: Checkpoint | None) -> RunSpec:
    """``spec``, with what a model is loaded by as it was when the checkpoint was made, unless it was set now."""
    if checkpoint is None:
        return spec
    saved = parse_spec(checkpoint.run.spec).model_dump(include=set(LOADED_FIELDS - MEASURED_FIELDS))
    filled = {name: value for name, value in saved.items() if name not in spec.model_fields_set}
    return spec.model_copy(update=filled)


def _terms(spec: RunSpec, checkpoint: Checkpoint | None, config: PeerConfig) -> Terms:
    """The run spec to begin with: a checkpoint's own, unless what was set now contradicts it."""
    set_now = frozenset(spec.model_fields_set) - LOADED_FIELDS
    if checkpoint is None:
        return Terms(spec, set_now)
    saved = parse_spec(checkpoint.run.spec)
    verdict = agree(spec, set_now, False, "1", saved, frozenset(checkpoint.run.set_fields), True, "0")
    if isinstance(verdict, Refuse):
        if any(f.field == "model_hash" for f in verdict.fields):
            raise StateError(
                f"The checkpoint in {config.state_dir} was trained from another base model than "
                f"{config.model or 'the module as it is now'}. "
                "Start with the one that it had, or give another directory with --state-dir to begin anew."
            )
        listed = "; ".join(f"{f.field} is {f.mine} now and was {f.theirs}" for f in verdict.fields)
        raise StateError(
            f"The checkpoint in {config.state_dir} belongs to a run with other settings: {listed}. Start with the "
            "settings that it had, or give another directory with --state-dir to begin anew."
        )
    return Terms(saved, frozenset(checkpoint.run.set_fields) | set_now)


async def _restore(model: TrainableModel, checkpoint: Checkpoint, compute: ComputeThread) -> None:
    for index, values in TrainedBlocks(checkpoint).items():
        await compute.run(model.set_block, index, values)
