"""docs/theory.md, "Blocks": T10."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from support.exact import SGD, ExactPeers

from decad.core.schedule import Order, Schedule

PEERS, BLOCKS, INNER, ROUNDS = 4, 3, 5, 30
SIZE = 4
"""Parameters of one block."""
RNG = torch.Generator().manual_seed(1)
X = torch.randn(PEERS, 30, BLOCKS * SIZE, dtype=torch.float64, generator=RNG)
Y = torch.randn(PEERS, 30, dtype=torch.float64, generator=RNG)


def objective(theta: torch.Tensor) -> float:
    """F, the mean over the peers of F_i(theta) = 1/2 mean (x theta - y)^2: all blocks depend on each other."""
    return float((X @ theta - Y).square().mean() / 2)


def gradients(thetas: torch.Tensor) -> torch.Tensor:
    """Of F_i at theta_i: [N, n] -> [N, n]."""
    wrong = (X @ thetas.unsqueeze(2)).squeeze(2) - Y
    return (X * wrong.unsqueeze(2)).mean(dim=1)


@pytest.mark.parametrize("order", ["descending", "ascending", "shuffled"])
def test_block_phases_descend_to_where_the_whole_gradient_is_zero(order: Order) -> None:
    """T10: on `full` and without noise no step of a phase raises F, and rounds end where all of grad F is zero.

    The step is 1/L, L the largest eigenvalue of F's Hessian.
    """
    flat = X.reshape(-1, X.shape[2])
    step = 1 / float(torch.linalg.eigvalsh(flat.T @ flat / len(flat))[-1])
    schedule = Schedule(BLOCKS, INNER, order)
    thetas = torch.ones(PEERS, BLOCKS * SIZE, dtype=torch.float64)
    seen, start = [objective(thetas[0])], float(gradients(thetas).mean(dim=0).norm())
    for first in range(0, ROUNDS * schedule.steps_per_round, INNER):
        active = slice(schedule.position(first).block * SIZE, (schedule.position(first).block + 1) * SIZE)
        phase = ExactPeers(thetas[:, active], "full")
        for _ in range(INNER):
            phase.step(gradients(thetas)[:, active], step * SGD.eps)
            thetas[:, active] = phase.thetas
            seen.append(objective(thetas[0]))
    assert all(after <= before + 1e-12 for before, after in pairwise(seen))
    assert float(gradients(thetas).mean(dim=0).norm()) < 1e-3 * start
