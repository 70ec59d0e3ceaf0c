"""The local block-Adam step: docs/theory.md, "The local step".

In the order of the paper's equations (DECA, arXiv 2606.03209, section 3): m_(r+1/2), v_(r+1/2), their bias-corrected
m_hat and v_hat, theta_(r+1/2). Where we depart from it: weight decay (decoupled, as in AdamW) and clipping by the norm
over the block are options, both off by default.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from decad.core.constants import AdamConstants
from decad.core.pieces import pieces


@dataclass
class AdamState:
    """Moments of the active block. They start at zero when the block becomes active."""

    m: Tensor
    """First moment, fp32 [n]."""
    v: Tensor
    """Second moment, fp32 [n], never negative."""
    updates: int
    """Local updates since the block became active: r + 1 after inner step r of a peer that missed none."""

    @classmethod
    def zeros(cls, n: int, device: torch.device | str) -> AdamState:
        return cls(torch.zeros(n, device=device), torch.zeros(n, device=device), 0)


@torch.no_grad()
def local_step(theta: Tensor, grad: Tensor, state: AdamState, constants: AdamConstants, lr: float) -> None:
    """Local Adam step: theta -> theta_half, m -> m_half, v -> v_half, all in place; ``grad`` is only read.

    ``theta`` and ``grad``: fp32 [n] on the device of ``state``. ``lr``: the rate of this step. Temporaries
    are bounded by a few pieces and nothing waits for the device. A gradient that is not finite is not looked
    for here and would spoil theta: the caller checks the loss.
    """
    c = constants
    state.updates += 1
    bias1, bias2 = 1 - c.a1**state.updates, 1 - c.a2**state.updates
    shrink = _clip_factor(grad, c.clip) if c.clip and grad.numel() else None
    for piece in pieces(theta.numel()):
        g = grad[piece] if shrink is None else grad[piece] * shrink
        m_half = state.m[piece].mul_(c.a1).add_(g, alpha=1 - c.a1)
        v_half = state.v[piece].mul_(c.a2).addcmul_(g, g, value=1 - c.a2)
        m_hat = m_half / bias1
        v_hat = v_half / bias2
        theta_half = theta[piece].mul_(1 - lr * c.weight_decay)
        theta_half.addcdiv_(m_hat, v_hat.sqrt_().add_(c.eps), value=-lr)


def _clip_factor(grad: Tensor, limit: float) -> Tensor:
    """min(1, limit / norm) as a tensor, so that nobody waits for the norm; a zero norm gives 1."""
    norms = [torch.linalg.vector_norm(grad[piece]) for piece in pieces(grad.numel())]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return (limit / norm).clamp(max=1.0)
