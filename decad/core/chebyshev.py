"""Mixing alone, accelerated: peers come to their mean in about the square root of the passes that plain mixing takes.

    theta_(k+1) = omega_k (W theta_k - theta_(k-1)) + theta_(k-1),
    omega_0 = 1,  omega_1 = 1 / (1 - rho^2 / 2),  omega_k = 1 / (1 - rho^2 omega_(k-1) / 4)

with W theta_k = theta_k + d of ordinary mixing, and rho the second largest modulus among the eigenvalues of W (Golub
and Varga 1961; for gossip Scaman et al. 2017, arXiv 1702.08704). The mean of all stays what it is, as long as all use
the same omega. A rho that is too small or too large costs speed and no more: what shrinks by plain mixing never grows
beyond where it began.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from decad.core.overlay import edge_weight, neighbours
from decad.core.pieces import pieces

MOST = 512
"""Peers up to which the eigenvalues are computed, in some 50 ms."""
OF_LARGE = 0.9
"""rho of an overlay of more."""


def contraction(overlay: str, members: Collection[str], names: Mapping[str, str]) -> float:
    """rho of the overlay that joins ``members`` (ids); ``names``: id -> name. 0 for one peer, and if all meet all."""
    ids = sorted(members)
    if len(ids) > MOST:
        return OF_LARGE
    place = {peer: number for number, peer in enumerate(ids)}
    near = {peer: neighbours(overlay, ids, peer, names) for peer in ids}
    mixing = torch.zeros(len(ids), len(ids), dtype=torch.float64)
    for peer, others in near.items():
        for other in others:
            mixing[place[peer], place[other]] = edge_weight(overlay, len(others), len(near[other]))
    mixing += torch.diag(1 - mixing.sum(dim=1))
    moduli = torch.linalg.eigvalsh(mixing).abs().sort(descending=True).values
    # Of a network in pieces the second is 1, too: nothing brings those together.
    return min(float(moduli[1]), 0.999) if len(ids) > 1 and float(moduli[1]) > 1e-6 else 0.0


def relaxation(passes: int, rho: float) -> float:
    """omega_k of pass ``passes``, from 0."""
    omega = 1.0
    for k in range(1, passes + 1):
        omega = 1 / (1 - rho**2 * omega / (2 if k == 1 else 4))
    return omega


@torch.no_grad()
def accelerate(theta: Tensor, d: Tensor, before: Tensor, omega: float) -> None:
    """theta_k -> theta_(k+1) and ``before``: theta_(k-1) -> theta_k, in place; all fp32 [n], ``d`` only read."""
    for piece in pieces(theta.numel()):
        following = torch.lerp(before[piece], theta[piece] + d[piece], omega)
        before[piece].copy_(theta[piece])
        theta[piece].copy_(following)
