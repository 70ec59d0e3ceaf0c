"""A network of peers on one block, without a wire: the real core, every message through its real bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from decad.core.adam import AdamState, local_step
from decad.core.blocks import Block, BlockPlan
from decad.core.coding import decoder, encoder
from decad.core.constants import AdamConstants
from decad.core.layout import cut
from decad.core.mixing import Mixer, moment_scale
from decad.core.moments import MomentRule
from decad.core.overlay import edge_weight, neighbours
from decad.core.section import Section

Gradient = Callable[[int, Tensor], Tensor]
"""(peer, theta [n]) -> that peer's gradient [n]."""


def given(*gradients: Tensor) -> Gradient:
    """Peer i's gradient is the i-th of these, wherever theta is."""
    return lambda peer, theta: gradients[peer]


def one_block(*shapes: tuple[int, ...]) -> Block:
    """A block whose parameters p0, p1, ... have these shapes."""
    named = {f"p{i}": shape for i, shape in enumerate(shapes)}
    return BlockPlan.build([("block", list(named))], named)[0]


class Peers:
    """N peers in one phase of one block, named "0", "1", ...: fewer than ten, so that they sort as numbers."""

    def __init__(
        self,
        thetas: Sequence[Tensor],
        block: Block,
        rule: MomentRule,
        constants: AdamConstants,
        *,
        overlay: str = "full",
        encoding: str = "fp32",
    ) -> None:
        self.thetas = [theta.clone() for theta in thetas]
        self.states = [AdamState.zeros(block.numel, "cpu") for _ in thetas]
        self.block, self.rule, self.constants, self.overlay = block, rule, constants, overlay
        ids = [str(i) for i in range(len(thetas))]
        self.edges = [sorted(int(j) for j in neighbours(overlay, ids, i)) for i in ids]
        self.sizes = {Section.BLOCK: block.numel} | rule.sections(block)
        self.encoders = [encoder(encoding) for _ in ids]
        self.decoders = {
            (i, j): decoder(encoding, self.sizes) for i, near in enumerate(self.edges) for j in near
        }

    def step(self, gradient: Gradient, lr: float) -> None:
        """Local steps of all peers, then the exchange, mixing and the moment rule."""
        self.train(gradient, lr)
        self.mix(lr)

    def train(self, gradient: Gradient, lr: float) -> None:
        """theta_half, m_half and v_half at every peer."""
        for i, (theta, state) in enumerate(zip(self.thetas, self.states, strict=True)):
            local_step(theta, gradient(i, theta), state, self.constants, lr)

    def mix(self, lr: float) -> None:
        """theta_next, m_next and v_next at every peer."""
        c = self.constants
        for theta, state, source in zip(self.thetas, self.states, self.encoders, strict=True):
            source.encode({Section.BLOCK: theta} | self.rule.outgoing(self.block, state))
        drifts = []
        for i, near in enumerate(self.edges):
            zeros = {s: torch.zeros(n) for s, n in self.sizes.items()}
            mixer = Mixer(zeros, self.encoders[i].chunk_elements, self.encoders[i].public)
            for j in near:
                weight = edge_weight(self.overlay, len(near), len(self.edges[j]))
                source, sink = self.encoders[j], self.decoders[i, j]
                full = source.full_only or source.sequence == 0
                assert sink.begin(source.sequence, full)
                for section, chunk, _, _ in cut(self.sizes, source.chunk_elements):
                    values = sink.decode(section, chunk, bytes(source.payload(section, chunk, full)))
                    scale = moment_scale(section, c.a1, c.a2, self.states[i].updates, self.states[j].updates)
                    mixer.add(str(j), section, chunk, weight, values, scale)
                sink.end()
            drifts.append(mixer.finish())
        for theta, state, d in zip(self.thetas, self.states, drifts, strict=True):
            self.rule.apply(self.block, state, d, lr, c)
            theta.add_(d[Section.BLOCK])

    @property
    def average(self) -> Tensor:
        return torch.stack(self.thetas).mean(dim=0)
