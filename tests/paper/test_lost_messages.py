"""docs/theory.md, "Lost messages": T11 to T13, and that training goes on (T7) is in test_rates.py."""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch
from support.exact import SGD, Directions, ExactPeers, weights

LOSS = 0.3
RING = [(i, (i + 1) % 6) for i in range(6)]
"""The edges of a ring of six."""


def both_ways(edges: Directions) -> set[tuple[int, int]]:
    return {direction for a, b in edges for direction in ((a, b), (b, a))}


@pytest.mark.parametrize("overlay", ["full", "ring", "exponential", "line"])
def test_an_edge_lost_at_both_ends_keeps_the_average(overlay: str) -> None:
    """T11: whatever the set of edges that is missing, another one in each step."""
    rng = torch.Generator().manual_seed(1)
    network = ExactPeers(torch.randn(8, 20, generator=rng), overlay)
    before, apart = network.average, network.distance
    for _ in range(50):
        gone = [e for e in combinations(range(8), 2) if float(torch.rand((), generator=rng)) < LOSS]
        network.mix(lost=both_ways(gone))
    assert float((network.average - before).abs().max()) < 1e-12
    assert network.distance < 0.2 * apart  # they did mix


def test_edges_lost_at_random_shrink_the_mean_square_by_the_printed_matrix() -> None:
    """T11: E[W_t W_t] = (I - (1 - p) (I - W))^2 + 2 p (1 - p) sum_e w_e^2 L_e, over all 64 losses of a ring of six.

    The columns of theta are that matrix's eigenvectors: each one's mean square is its eigenvalue.
    """
    eye, w = torch.eye(6, dtype=torch.float64), weights("ring", 6)
    mean = eye - (1 - LOSS) * (eye - w)
    values, vectors = torch.linalg.eigh(mean @ mean + 2 * LOSS * (1 - LOSS) * (eye - w) / 3)  # w_e = 1/3
    measured = torch.zeros(6, dtype=torch.float64)
    for fate in product([False, True], repeat=6):
        network = ExactPeers(vectors, "ring")
        network.mix(lost=both_ways([edge for edge, lost in zip(RING, fate, strict=True) if lost]))
        chance = LOSS ** sum(fate) * (1 - LOSS) ** (6 - sum(fate))
        measured += chance * network.thetas.square().sum(dim=0)
    torch.testing.assert_close(measured, values, rtol=0, atol=1e-9)
    assert float(values[-2]) == pytest.approx(0.634, abs=5e-4)  # as printed; without loss rho^2 = 0.444


@pytest.mark.parametrize("overlay", ["full", "ring", "exponential"])
@pytest.mark.parametrize("seed", range(3))
def test_a_direction_lost_moves_the_average_by_what_it_would_have_carried(overlay: str, seed: int) -> None:
    """T12: the average moves by -(1/N) sum of w_ij (p_j - p_i) over the directions j -> i that were lost."""
    rng = torch.Generator().manual_seed(seed)
    network, w = ExactPeers(torch.randn(8, 20, generator=rng), overlay), weights(overlay, 8)
    directions = [(j, i) for i, near in enumerate(network.edges) for j in near]
    lost = [direction for direction in directions if float(torch.rand((), generator=rng)) < LOSS]
    p, before = network.thetas.clone(), network.average
    missing = sum(((w[i, j] * (p[j] - p[i])) for j, i in lost), torch.zeros(20, dtype=torch.float64))
    network.mix(lost=lost)
    torch.testing.assert_close(network.average - before, -missing / 8, rtol=0, atol=1e-12)
    assert float(missing.norm()) > 0.1


@pytest.mark.parametrize(
    ("lost", "shares"),
    [
        ([(0, i) for i in range(1, 6)], [0, 0.2, 0.2, 0.2, 0.2, 0.2]),
        ([(i, 0) for i in range(1, 6)], [1, 0, 0, 0, 0, 0]),
        ([(0, 1)], None),
    ],
    ids=["nobody hears a", "a hears nobody", "b does not hear a"],
)
def test_a_standing_one_sided_loss_changes_whose_data_counts(
    lost: Directions, shares: list[float] | None
) -> None:
    """T13: training finds the optimum of sum_i pi_i F_i, pi W' = pi; without loss every pi_i is 1/N.

    Quadratics of equal curvature: that optimum is sum_i pi_i c_i. Each peer ends at a distance that is of the order
    of the step, which is 0.01 of the wishes' spread.
    """
    rng = torch.Generator().manual_seed(5)
    wishes = torch.randn(6, 50, dtype=torch.float64, generator=rng)
    used = weights("full", 6)
    for j, i in lost:
        used[i, i] += used[i, j]
        used[i, j] = 0
    values, vectors = torch.linalg.eig(used.T)
    left = vectors[:, int(values.real.argmax())].real
    pi = left / left.sum()
    if shares is not None:
        assert pi.tolist() == pytest.approx(shares, abs=1e-12)
    network = ExactPeers(torch.zeros(6, 50), "full")
    for _ in range(1000):
        network.step(network.thetas - wishes, 0.01 * SGD.eps, lost)
    away = float((pi @ network.thetas - pi @ wishes).norm())
    assert away < 1e-3 * float((wishes.mean(dim=0) - pi @ wishes).norm())
    assert network.distance < 0.1 * float((wishes - wishes.mean(dim=0)).norm())
