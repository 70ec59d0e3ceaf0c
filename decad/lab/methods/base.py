"""What a method decides on: what is trained at once, by which rule, and with whom it is mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from decad.config import RunSpec
from decad.core.overlay import edge_weight, neighbours
from decad.daemon.phase import TrainingRule
from decad.data.local import LocalData, data_seed
from decad.errors import ConfigError
from decad.lab.pool import Pool, Share
from decad.model.trainable import TrainableModel

Edges = Mapping[str, Mapping[str, float]]
"""Peer's id -> neighbour's id -> mixing weight."""


@dataclass(frozen=True)
class Learner:
    """Somebody who trains: a peer, or the one machine that has all data."""

    name: str
    id: str
    data: LocalData
    batch_size: int


@dataclass(frozen=True)
class Method:
    """DECA's own choices, from which the others differ. The fields of a subclass are its options."""

    def terms(self, spec: RunSpec, steps: int) -> RunSpec:
        """The run spec to train ``steps`` steps by."""
        return spec

    def rule(self, spec: RunSpec) -> TrainingRule:
        return TrainingRule(spec)

    def prepare(self, model: TrainableModel) -> TrainableModel:
        """The model that is trained, given the base model."""
        return model

    def learners(self, peers: Sequence[Learner], pool: Pool, seed: int) -> list[Learner]:
        """Who trains, given the peers and their data."""
        return list(peers)

    def mixes(self, step: int) -> bool:
        """Whether there is an exchange after this step."""
        return True

    def checked(self) -> bool:
        """Whether peers refuse values out of all proportion and take back what these would spoil, as daemons do."""
        return True

    def edges(self, overlay: str, here: Sequence[str], names: Mapping[str, str]) -> Edges:
        """Who mixes with whom among the ids ``here``."""
        near = {i: sorted(neighbours(overlay, here, i, names)) for i in here}
        return {
            i: {j: edge_weight(overlay, len(near[i]), len(near[j])) for j in others}
            for i, others in near.items()
        }

    def copies(self, neighbours: int) -> int:
        """Messages that a peer sends in an exchange with so many."""
        return neighbours


def everything(spec: RunSpec, inner_steps: int, warmup: float = 0.0) -> RunSpec:
    """All parameters at once, in phases of ``inner_steps``, at whose beginning moments are zero. Raises ConfigError."""
    if not spec.lr:
        raise ConfigError(
            "This method needs a rate, lr: what suits a model's width is the rate of one block at a time, many times "
            "that of all parameters at once."
        )
    settled = {"blocks": "1", "inner_steps": inner_steps, "warmup": warmup, "moments": "none", "settle": 0}
    return spec.model_copy(update=settled)


def together(peers: Sequence[Learner], pool: Pool, seed: int, batch_size: int) -> list[Learner]:
    """One machine that trains on what all peers train on; 0: with as large a batch as theirs together."""
    units = np.sort(np.concatenate([peer.data.train_units for peer in peers if isinstance(peer.data, Share)]))
    data = Share(pool, units, 0.0, data_seed(seed, "pooled"))
    return [Learner("pooled", "pooled", data, batch_size or sum(peer.batch_size for peer in peers))]
