"""Peers whose messages are their values in fp64, and may get lost: the real core without coding and rounding."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import torch
from torch import Tensor

from decad.core.adam import AdamState, local_step
from decad.core.constants import AdamConstants
from decad.core.mixing import Mixer
from decad.core.moments import moment_rule
from decad.core.overlay import edge_weight, mixing_matrix, neighbours
from decad.core.section import Section
from support.peers import one_block

SGD = AdamConstants(a1=0.0, eps=1e12)
"""Adam that is SGD: at the rate ``step * SGD.eps`` it moves by -step * gradient (docs/theory.md, T5)."""

Directions = Collection[tuple[int, int]]
"""(sender, receiver) of messages."""


def peer_ids(peers: int) -> list[str]:
    return [f"{i:03}" for i in range(peers)]


def overlay(name: str, peers: int) -> str:
    """An overlay as the run spec has it; besides those that have a name of their own: line, alone."""
    if name == "line":
        ids = peer_ids(peers)
        return "edges:" + ",".join(f"{a}-{b}" for a, b in pairwise(ids))
    return "edges:nobody-else" if name == "alone" else name


def weights(name: str, peers: int) -> Tensor:
    """W, fp64 [N, N]."""
    return mixing_matrix(overlay(name, peers), peer_ids(peers))


class ExactPeers:
    """N peers in one phase of one block, a matrix [rows, n / rows]. ``thetas``: fp64 [N, n], one peer a row.

    The local step and the moment rule work by element and by row, so they see all peers' vectors as one long block;
    every peer mixes by itself.
    """

    def __init__(
        self,
        thetas: Tensor,
        overlay_name: str,
        rule: str = "none",
        constants: AdamConstants = SGD,
        rows: int = 1,
    ) -> None:
        self.thetas = thetas.double().clone()
        self.peers, numel = thetas.shape
        self.rule, self.constants = moment_rule(rule), constants
        self.block = one_block((self.peers * rows, numel // rows))
        zeros = torch.zeros(self.peers * numel, dtype=torch.float64)
        self.state = AdamState(zeros, zeros.clone(), 0)
        self.overlay, ids = overlay(overlay_name, self.peers), peer_ids(self.peers)
        self.edges = [sorted(map(int, neighbours(self.overlay, ids, me))) for me in ids]

    def step(self, gradients: Tensor, lr: float, lost: Directions = ()) -> None:
        """One inner step with ``gradients`` [N, n], taken at `thetas`."""
        self.train(gradients, lr)
        self.mix(lr, lost)

    def train(self, gradients: Tensor, lr: float) -> None:
        """theta_half, m_half and v_half at every peer."""
        local_step(self.thetas.view(-1), gradients.reshape(-1), self.state, self.constants, lr)

    def mix(self, lr: float = 0.0, lost: Directions = (), public: Tensor | None = None) -> None:
        """theta_next, m_next and v_next at every peer. ``public``: what messages say, if not theta_half."""
        values = {Section.BLOCK: self.thetas if public is None else public}
        for section, outgoing in self.rule.outgoing(self.block, self.state).items():
            values[section] = outgoing.view(self.peers, -1).clone()
        drifts: dict[Section, list[Tensor]] = {section: [] for section in values}
        for i, near in enumerate(self.edges):
            own = {section: value[i] for section, value in values.items()}
            zeros = {section: torch.zeros_like(v) for section, v in own.items()}
            mixer = Mixer(zeros, self.thetas.shape[1], own)
            for j in near:
                if (j, i) not in lost:
                    weight = edge_weight(self.overlay, len(near), len(self.edges[j]))
                    for section, value in values.items():
                        mixer.add(str(j), section, 0, weight, value[j])
            for section, d in mixer.finish().items():
                drifts[section].append(d)
        self.rule.apply(
            self.block, self.state, {s: torch.cat(d) for s, d in drifts.items()}, lr, self.constants
        )
        self.thetas += torch.stack(drifts[Section.BLOCK])

    @property
    def average(self) -> Tensor:
        return self.thetas.mean(dim=0)

    @property
    def distance(self) -> float:
        """Consensus distance: of all peers' vectors from their average."""
        return float((self.thetas - self.average).norm())
