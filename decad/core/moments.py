"""Moment rules: what becomes of m_half and v_half once the neighbours' discrepancies d are known.

docs/theory.md, "Moment rules" and T2. Chosen by name in the run spec, all with one signature. Every rule works in
place, only reads d, and needs no more temporary memory than a few pieces and row means. A peer without neighbours has
d = 0, and every rule but the printed one then is Adam, bit for bit. The printed one has the signal of the paper (arXiv
2606.03209): h = theta_(r+1) - theta_r, and moments that take in h and h squared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from decad.core.adam import AdamState
from decad.core.blocks import Block
from decad.core.constants import AdamConstants
from decad.core.pieces import pieces
from decad.core.section import Section
from decad.errors import ConfigError

DRIFT_LIMIT = 3.0
"""Largest |q|: drift counted per step, in units of the learning rate."""
UNSEEN = 1e-30
"""A row whose mean of v is smaller has had no gradient yet (an unseen token's) and takes the mixed mean."""

Discrepancies = Mapping[Section, Tensor]


class MomentRule(Protocol):
    """One step's change of the moments; every vector is fp32 on the state's device."""

    def sections(self, block: Block) -> dict[Section, int]:
        """What travels beside the block, and its number of elements."""
        ...

    def outgoing(self, block: Block, state: AdamState) -> dict[Section, Tensor]:
        """The values of `sections` after the local step, perhaps the very memory that `apply` changes."""
        ...

    def apply(
        self, block: Block, state: AdamState, d: Discrepancies, lr: float, constants: AdamConstants
    ) -> None:
        """m_half -> m_next, v_half -> v_next. ``d`` holds BLOCK and each of `sections`; it is only read."""
        ...


def moment_rule(name: str, *, unit: str = "gradient", sign: Literal[1, -1] = 1) -> MomentRule:
    """The rule called rowwise | gossip | signal | none.

    ``unit`` and ``sign`` concern `signal` alone: "parameter" is the rule as printed, for comparison, with
    h = sign * (theta_next - theta_r); 1 is the printed sign. Raises ConfigError for names it does not know.
    """
    if name == "signal" and unit == "parameter":
        return PrintedSignal(sign)
    if name not in _RULES or unit != "gradient":
        raise ConfigError(
            f"moment rule {name!r} in unit {unit!r} is not known. Use one of {', '.join(_RULES)}."
        )
    return _RULES[name]


def default_b1(name: str) -> float:
    """b1 of a rule; 1 for the rules that keep m_half as it is, whatever b1."""
    return {"rowwise": 0.5, "signal": 0.9}.get(name, 1.0)


class NoExchange:
    """`none`: block Adam with mixing only."""

    def sections(self, block: Block) -> dict[Section, int]:
        return {}

    def outgoing(self, block: Block, state: AdamState) -> dict[Section, Tensor]:
        return {}

    def apply(
        self, block: Block, state: AdamState, d: Discrepancies, lr: float, constants: AdamConstants
    ) -> None:
        """m_next = m_half, v_next = v_half."""


class Signal(NoExchange):
    """`signal` in gradient units: the drift by mixing, turned into the gradient that would have caused it.

    h = m_half - q (sqrt(v_hat) + eps) (1 - a1^(r+1)),  m_next = b1 m_half + (1 - b1) h,  v_next = v_half,
    with q = clip(d / lr, -3, 3), and 0 where lr = 0.
    """

    @torch.no_grad()
    def apply(
        self, block: Block, state: AdamState, d: Discrepancies, lr: float, constants: AdamConstants
    ) -> None:
        c = constants
        if lr == 0 or state.updates == 0:
            return
        bias1, bias2 = 1 - c.a1**state.updates, 1 - c.a2**state.updates
        for piece in pieces(block.numel):
            q = (d[Section.BLOCK][piece] / lr).clamp_(-DRIFT_LIMIT, DRIFT_LIMIT)
            v_hat = state.v[piece] / bias2
            # m_half - (1 - b1) q (...) rather than b1 m_half + (1 - b1) h: exactly m_half where q is 0.
            state.m[piece].addcmul_(q, v_hat.sqrt_().add_(c.eps), value=-(1 - c.b1) * bias1)


class Rowwise(Signal):
    """`rowwise`: the second moment's row means travel; the first moment takes `signal`.

    rho_mix = rho + d_SECOND,  v_next = v_half rho_mix / rho, and rho_mix itself in rows whose rho < 1e-30.
    """

    def sections(self, block: Block) -> dict[Section, int]:
        return {Section.SECOND: block.rows}

    def outgoing(self, block: Block, state: AdamState) -> dict[Section, Tensor]:
        return {Section.SECOND: block.row_means(state.v)}

    @torch.no_grad()
    def apply(
        self, block: Block, state: AdamState, d: Discrepancies, lr: float, constants: AdamConstants
    ) -> None:
        super().apply(block, state, d, lr, constants)  # first: h is made of v_half
        rho = block.row_means(state.v)
        rho_mix = (rho + d[Section.SECOND]).clamp_(min=0)
        seen = rho >= UNSEEN
        # No larger than fp32 holds: infinity times a zero in the row would be no number.
        ratio = torch.where(seen, rho_mix / rho, 0).clamp_(max=torch.finfo(rho.dtype).max)
        fill = torch.where(seen, 0, rho_mix)
        for (v, row_ratio), (_, row_fill) in zip(
            block.by_rows(state.v, ratio), block.by_rows(state.v, fill), strict=True
        ):
            v.mul_(row_ratio).add_(row_fill)


class Gossip:
    """`gossip`: both moments are mixed like the block.

    m_next = m_half + d_FIRST,  v_next = v_half + d_SECOND.
    """

    def sections(self, block: Block) -> dict[Section, int]:
        return {Section.FIRST: block.numel, Section.SECOND: block.numel}

    def outgoing(self, block: Block, state: AdamState) -> dict[Section, Tensor]:
        return {Section.FIRST: state.m, Section.SECOND: state.v}

    @torch.no_grad()
    def apply(
        self, block: Block, state: AdamState, d: Discrepancies, lr: float, constants: AdamConstants
    ) -> None:
        state.m.add_(d[Section.FIRST])
        state.v.add_(d[Section.SECOND]).clamp_(min=0)  # rounding of v on the wire can undershoot


@dataclass(frozen=True)
class PrintedSignal(NoExchange):
    """`signal` in parameter units: the printed rule, kept for comparison.

    h = sign (theta_next - theta_r),  m_next = b1 m_half + (1 - b1) h,  v_next = b2 v_half + (1 - b2) h h.
    theta_next - theta_r is d plus the local Adam step, which m_half and v_half still tell; weight decay's
    part of it is left out (the paper has none).
    """

    sign: Literal[1, -1]

    @torch.no_grad()
    def apply(
        self, block: Block, state: AdamState, d: Discrepancies, lr: float, constants: AdamConstants
    ) -> None:
        c = constants
        if state.updates == 0:
            return
        bias1, bias2 = 1 - c.a1**state.updates, 1 - c.a2**state.updates
        for piece in pieces(block.numel):
            m, v = state.m[piece], state.v[piece]
            h = d[Section.BLOCK][piece] - lr * (m / bias1) / (v / bias2).sqrt_().add_(c.eps)
            h *= self.sign
            m.mul_(c.b1).add_(h, alpha=1 - c.b1)
            v.mul_(c.b2).addcmul_(h, h, value=1 - c.b2)


_RULES: dict[str, MomentRule] = {
    "rowwise": Rowwise(),
    "gossip": Gossip(),
    "signal": Signal(),
    "none": NoExchange(),
}
