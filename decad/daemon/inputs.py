"""Where a daemon's model and data come from: a Hugging Face directory and files, unless a program brings its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch

from decad.config import PeerConfig, RunSpec
from decad.core.privacy import LocalPrivacy
from decad.daemon.device import available_memory, choose_dtype, is_emulated
from decad.data.local import PackedData, load_data
from decad.data.source import Source
from decad.errors import ConfigError
from decad.model.length import sequence_length
from decad.model.room import check_room
from decad.model.trainable import TrainableModel

log = logging.getLogger("decad")

ModelLoader = Callable[[RunSpec, PeerConfig, torch.device], TrainableModel]
DataLoader = Callable[[int, PeerConfig, TrainableModel, Callable[[str], None]], Source]
"""(seed of the split and the order, settings, model, what is told of what is waited for) -> data.

Called on the compute thread, and again when the run turns out to have another seed.
"""


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
        privacy=LocalPrivacy(config.dp_noise, config.dp_clip) if config.dp_noise else None,
    )


def load_files(seed: int, config: PeerConfig, model: TrainableModel, tell: Callable[[str], None]) -> Source:
    """The data of the settings. ``tell`` hears now and then what is waited for. Raises OperatorError."""
    seq_len = sequence_length(config.seq_len, model.context_length)
    data = load_data(
        config.data,
        model.tokenizer,
        model.spec.task,
        model.spec.labels,
        seq_len,
        config.held_out,
        seed,
        keep=config.state_dir,
        max_bad=config.max_bad,
        tell=tell,
    )
    what = f"sequences of {seq_len} tokens" if isinstance(data, PackedData) else "examples"
    log.info("%d %s to train on, %d held out", data.train_sequences, what, data.held_out)
    return data


class Loaders(NamedTuple):
    """How a peer comes by its model and its data."""

    model: ModelLoader = load_directory
    data: DataLoader = load_files
