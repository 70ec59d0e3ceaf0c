"""What a peer has before it meets anybody: its identity, its last checkpoint, the model, and the data."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from decad.config import PeerConfig, RunSpec
from decad.daemon.compute import ComputeThread
from decad.daemon.context import RunSettings
from decad.daemon.inputs import Loaders
from decad.daemon.progress import Progress
from decad.daemon.replica import Resumed
from decad.daemon.resuming import settings_to_begin_with, spec_to_load
from decad.data.local import LocalData, data_seed
from decad.data.position import DataPosition
from decad.data.source import Source
from decad.membership import identity as identities
from decad.membership.identity import Identity
from decad.model.meaning import template_of
from decad.model.trainable import TrainableModel
from decad.state.checkpoint import Checkpoint, CheckpointStore
from decad.state.manifest import KnownPeer
from decad.state.weights import TrainedBlocks

log = logging.getLogger("decad")


@dataclass(frozen=True)
class Loaded:
    """All that was read, with the model's trained blocks as they were saved."""

    identity: Identity
    store: CheckpointStore
    model: TrainableModel
    data: Source
    run: RunSettings
    drawn_by: str
    """By whose name or id the data's split and order are drawn; it stays the same from the first start on."""
    position: DataPosition
    resumed: Resumed | None
    """None without a checkpoint."""
    peers: tuple[KnownPeer, ...]
    """Whom the checkpoint knew."""


async def load(
    spec: RunSpec,
    config: PeerConfig,
    device: torch.device,
    compute: ComputeThread,
    loaders: Loaders,
    progress: Progress,
) -> Loaded:
    """Read it all on the compute thread, and tell ``progress`` what is waited for. Raises OperatorError."""
    progress.wait_for("the checkpoint to be read")
    # Kept only when all is well: a start that is refused leaves nothing behind.
    identity = identities.load(config.state_dir) or Identity.generate()
    store = CheckpointStore(config.state_dir)
    checkpoint = await compute.run(store.load)
    log.info("loading %s", config.model or "the model")
    progress.wait_for(f"the model {config.model or ''} to be loaded")
    model = await compute.run(loaders.model, spec_to_load(spec, checkpoint), config, device)
    log.info("%d blocks, %.1f M parameters", len(model.plan), model.plan.numel / 1e6)
    progress.wait_for("the data to be read")
    drawn_by = _drawn_by(identity, config, checkpoint)
    data = await compute.run(
        loaders.data, data_seed(model.spec.seed, drawn_by), config, model, progress.wait_for
    )
    if isinstance(data, LocalData) and (losses := data.corpus.losses).records:
        progress.notices.add(f"Left out of the data {losses} that cannot be used: {losses.listed}.")
    run = settings_to_begin_with(model.spec, checkpoint, config.model)
    if isinstance(data, LocalData) and data.corpus.templated:
        run.spec = run.spec.model_copy(update={"chat_template": template_of(model.tokenizer)})
    if not spec.lr and checkpoint is None:
        beside = f" and {run.spec.adapter_lr:g} of the adapters" if run.spec.adapters else ""
        log.info(
            "learning rate %g%s, by the model's width, unless peers have another (--lr)", run.spec.lr, beside
        )
    resumed = None
    if checkpoint is not None:
        progress.wait_for("the checkpoint to be restored")
        resumed = await _restore(model, checkpoint, compute)
        progress.step = resumed.step
        log.info("continuing at step %d", resumed.step)
        if checkpoint.lost:
            progress.notice(checkpoint.lost)
    return Loaded(
        identities.load_or_create(config.state_dir, identity),
        store,
        model,
        data,
        run,
        drawn_by,
        DataPosition() if checkpoint is None else DataPosition.from_dict(checkpoint.run.data),
        resumed,
        () if checkpoint is None else checkpoint.run.peers,
    )


DRAWN_BY = "drawn_by"
"""Key of `Loaded.drawn_by` beside the position in the data, in a checkpoint."""


def _drawn_by(identity: Identity, config: PeerConfig, checkpoint: Checkpoint | None) -> str:
    if checkpoint is None:
        # Not the name alone: peers without one that have the same data would draw the same batches.
        return config.name or identity.peer_id
    return str(checkpoint.run.data.get(DRAWN_BY, config.name))


async def _restore(model: TrainableModel, checkpoint: Checkpoint, compute: ComputeThread) -> Resumed:
    """Put the trained blocks into the model, one at a time: a stop in between is heard."""
    blocks = TrainedBlocks(checkpoint)

    def restore(index: int) -> None:
        model.set_block(index, blocks[index])

    for index in blocks:
        await compute.run(restore, index)
    active, adapters = await compute.run(checkpoint.active), await compute.run(checkpoint.adapters)
    run = checkpoint.run
    return Resumed(checkpoint.phases, active, run.step, adapters, run.apart, run.end)
