"""Many peers in one process, step by step: the daemon's mathematics without its network.

What a step does to a block, to moments and to what is sent is `decad.daemon.phase` and `decad.core`, so a run here
and a run of daemons with the same seeds give the same parameters (tests/integration/test_lab_is_the_daemon.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from decad.config import RunSpec
from decad.core.batch import Batch, Score
from decad.core.chebyshev import contraction
from decad.core.privacy import LocalPrivacy
from decad.core.schedule import last_step
from decad.core.section import Section
from decad.data.local import data_seed
from decad.lab.attacks import Attack
from decad.lab.experiment import Experiment
from decad.lab.faults import Faults
from decad.lab.methods import method
from decad.lab.methods.base import Edges, Learner
from decad.lab.partition import partition
from decad.lab.peer import LabPeer
from decad.lab.pool import Pool, Share
from decad.model.trainable import TrainableModel

EVALUATED_AT_ONCE = 16
"""Sequences or examples of one forward pass."""


class Evaluation(NamedTuple):
    """Of the models as they are, on what all peers hold out."""

    averaged: Score
    peers: list[Score]
    consensus_distance: float
    """sqrt(mean over peers of ||theta_i - mean||^2) over all trained parameters."""


class Laboratory:
    """One experiment, ready to take steps."""

    def __init__(self, experiment: Experiment, tell: Callable[[str], None] = lambda text: None) -> None:
        """Load data and models; ``tell`` hears what is being done. Raises OperatorError."""
        self.experiment = experiment
        self.method = method(experiment.method, experiment.options)
        spec = self.method.terms(experiment.spec, experiment.steps)
        tell("loading the model")
        averaged = self._load(spec)
        tell("reading the data")
        names = experiment.peer_names()
        pool = self.pool = Pool(
            experiment.data, averaged.tokenizer, averaged.spec.task, averaged.spec.labels, experiment.seq_len
        )
        shares = _shares(experiment, pool)
        peers = [
            Learner(name, id_, share, experiment.batch_size)
            for name, id_, share in zip(names, experiment.peer_ids(), shares, strict=True)
        ]
        self._held_out = _held_out(pool, shares, experiment.eval_units)
        learners = self.method.learners(peers, pool, experiment.seed)
        self.averaged = self.method.prepare(averaged)
        """Mean of the honest peers' models, as of the last evaluation."""
        rule = self.method.rule(spec.settled(lr=averaged.spec.lr, adapter_lr=averaged.spec.adapter_lr))
        self.schedule = spec.calendar(len(self.averaged.plan))
        self.steps = last_step(experiment.steps, self.schedule)
        """Those of the experiment, and what settling after them takes."""
        self._rho = lru_cache(maxsize=8)(self._rho_of)
        self.peers: list[LabPeer] = []
        for learner in learners:
            tell(f"making peer {len(self.peers) + 1} of {len(learners)}")
            model = self.method.prepare(self._load(spec))
            self.peers.append(LabPeer(learner, model, rule, self.schedule, self.method.checked()))
        attack = Attack(experiment.attack, experiment.spec.seed)
        for peer in self.peers:
            if peer.name in experiment.attackers:
                peer.attack = attack
        self._honest = [peer for peer in self.peers if peer.attack is None]
        self._names = {peer.id: peer.name for peer in self.peers}
        self._faults = Faults(experiment.faults, names, experiment.seed)
        self._edges = lru_cache(maxsize=64)(self._edges_of)
        self._were_away: frozenset[str] = frozenset()

    def step(self, number: int) -> None:
        """One step of everybody who is there. Raises DivergedError."""
        away = self._faults.away(number)
        here = [peer for peer in self.peers if peer.name not in away]
        for peer in self.peers:
            if peer.name in away:
                peer.leave()
        for peer in here:
            if peer.name in self._were_away:
                self._catch_up(peer, [p for p in here if p.name not in self._were_away], number)
        self._were_away = away
        position = self.schedule.position(number)
        mixes = self.schedule.settles(number) or self.method.mixes(number)
        edges = self._edges(tuple(peer.id for peer in here)) if mixes else {}
        for peer in here:
            peer.enter(position)
            if self.schedule.settles(number):
                peer.keep_still(number, len(edges.get(peer.id, ())))
            else:
                peer.train(number, mixes, len(edges.get(peer.id, ())))
        if mixes:
            self._exchange(here, number)
        if self.schedule.position(number + 1).inner == 0:
            for peer in here:
                peer.leave()

    def _exchange(self, here: Sequence[LabPeer], number: int) -> None:
        late = self._faults.late(number)
        by_id = {peer.id: peer for peer in here}
        for id_, weights in self._edges(tuple(by_id)).items():
            peer = by_id[id_]
            heard = {
                other: weight
                for other, weight in weights.items()
                if not {peer.name, self._names[other]} & late
            }
            if weights:
                peer.sent += peer.message_bytes() * self.method.copies(len(weights))
            for other, weight in heard.items():
                peer.hear(by_id[other], weight, self._told(by_id[other], peer, [by_id[o] for o in heard]))
        rho = self._rho(tuple(by_id)) if self.schedule.settles(number) else 0.0
        for peer in here:
            peer.mix(number, rho)

    def _told(self, peer: LabPeer, victim: LabPeer, others: Sequence[LabPeer]) -> Tensor | None:
        if peer.attack is None:
            return None
        honest = [other.tell(Section.BLOCK) for other in others if other.attack is None]
        return peer.attack.told(peer.tell(Section.BLOCK), peer.began, victim.tell(Section.BLOCK), honest)

    def _rho_of(self, ids: tuple[str, ...]) -> float:
        return contraction(self.experiment.spec.overlay, ids, self._names)

    def _edges_of(self, ids: tuple[str, ...]) -> Edges:
        return self.method.edges(self.experiment.spec.overlay, ids, self._names)

    def _catch_up(self, peer: LabPeer, donors: Sequence[LabPeer], number: int) -> None:
        """Take a neighbour's copy of each block of whose last phase this peer has nothing."""
        near = self._edges(tuple(p.id for p in [peer, *donors]))[peer.id]
        donor = min((p for p in donors if p.id in near or not near), key=lambda p: p.id, default=None)
        if donor is None:
            return
        for block, phase in self.schedule.latest_phases(number).items():
            if peer.phases.get(block, -1) < phase:
                peer.take(block, phase, donor)
        peer.take_adapters(donor)

    # -- evaluation -----------------------------------------------------------------------------------------

    def evaluate(self) -> Evaluation:
        """Of the averaged model and of each peer's, at any time between steps."""
        apart = 0.0
        for block in self.averaged.blocks:
            copies = [peer.model.block(block.index) for peer in self._honest]
            # From one of them on, so that equal copies have exactly themselves as their mean.
            mean = copies[0] + reduce(torch.add, (copy - copies[0] for copy in copies)) / len(copies)
            apart += sum(float((copy - mean).square().sum()) for copy in copies) / len(copies)
            self.averaged.set_block(block.index, mean)
        scores = [self._score(peer.model) for peer in self._honest]
        averaged = self._score(self.averaged) if len(scores) > 1 else scores[0]
        return Evaluation(averaged, scores, float(np.sqrt(apart)))

    def _score(self, model: TrainableModel) -> Score:
        return reduce(Score.plus, map(model.evaluate, self._held_out))

    def memory(self) -> dict[str, int]:
        """Bytes that one peer's training holds in tensors, by what for; without activations."""
        model, experiment = self.peers[0].model, self.experiment
        largest = max(block.numel for block in model.plan.blocks)
        beside = 0 if model.adapters is None else model.adapters.numel
        master = 0 if model.dtype == torch.float32 else 4
        public = 0
        if experiment.spec.encoding != "fp32" and len(self.peers) > 1:
            edges = self._edges(tuple(peer.id for peer in self.peers))
            public = 1 + max(map(len, edges.values()))
        return {
            "weights": sum(part.nbytes for part in [*model.module.parameters(), *model.module.buffers()]),
            "gradients": 4 * (largest + beside),
            "optimiser": (8 + master) * largest + 8 * beside,
            "exchange": 4 * public * (largest + beside),
        }

    def _load(self, spec: RunSpec) -> TrainableModel:
        experiment = self.experiment
        dtype = torch.float32 if experiment.dtype == "float32" else torch.bfloat16
        return TrainableModel.load(
            experiment.model,
            torch.device("cpu"),
            dtype,
            spec,
            micro_batch=experiment.micro_batch,
            privacy=LocalPrivacy(experiment.dp_noise, experiment.dp_clip) if experiment.dp_noise else None,
        )


def _shares(experiment: Experiment, pool: Pool) -> list[Share]:
    labels = pool.domains if pool.classes is None or experiment.partition == "domain" else pool.classes
    parts = partition(experiment.partition, labels, experiment.peers, experiment.seed)
    return [
        Share(pool, units, experiment.held_out, data_seed(experiment.seed, name))
        for name, units in zip(experiment.peer_names(), parts, strict=True)
    ]


def _held_out(pool: Pool, shares: Sequence[Share], units: int) -> list[Batch]:
    """About ``units`` of what all hold out, as many from each as from the others as far as they reach."""
    each = -(-units // len(shares))
    chosen = []
    for share in shares:
        kept = share.held_out_units
        chosen.append(kept[np.linspace(0, len(kept) - 1, min(each, len(kept))).astype(np.int64)])
    numbers: Tensor = torch.from_numpy(np.concatenate(chosen))
    return [pool.batch(part) for part in torch.split(numbers, EVALUATED_AT_ONCE)]
