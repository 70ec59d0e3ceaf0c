"""docs/theory.md, T1 and T4: mixing keeps the network average, and its Metropolis-Hastings weights are stable."""

from __future__ import annotations

import pytest
import torch
from support.peers import Peers, one_block
from torch import Tensor

from decad.core.adam import AdamState, local_step
from decad.core.constants import AdamConstants
from decad.core.mixing import Mixer
from decad.core.moments import moment_rule
from decad.core.overlay import edge_weight, mixing_matrix, neighbours
from decad.core.section import Section

K55 = "edges:" + ",".join(f"{a}-{b}" for a in "abcde" for b in "vwxyz")
CUBE = "edges:" + ",".join(f"{i:05b}-{i ^ 1 << k:05b}" for i in range(32) for k in range(5) if i < i ^ 1 << k)
DENSE = {"K_{5,5}": (K55, list("abcdevwxyz")), "5-cube": (CUBE, [f"{i:05b}" for i in range(32)])}
LIMIT = 2 * (1 + 0.9) / (1 + 0.9 + 0.9 * (1 - 0.5))


def roughest(weights: Tensor) -> float:
    """Largest eigenvalue of I - W."""
    return float(1 - torch.linalg.eigvalsh(weights)[0])


def plain_weights(overlay: str, members: list[str]) -> Tensor:
    """Metropolis-Hastings without the 1.25: w_ij = 1 / (1 + max(deg_i, deg_j))."""
    near = {i: neighbours(overlay, members, i) for i in members}
    weights = torch.zeros(len(members), len(members), dtype=torch.float64)
    for i in members:
        for j in near[i]:
            weights[members.index(i), members.index(j)] = 1 / (1 + max(len(near[i]), len(near[j])))
    return weights + torch.diag(1 - weights.sum(dim=1))


def recursion(eigenvalue: float) -> Tensor:
    """What one step does to (theta, m) in the direction of an eigenvector of I - W, for v_hat = lr = 1: [2, 2].

    Measured on the code itself: two peers that are each other's negative mix with weight eigenvalue / 2.
    """
    columns = []
    for theta0, m0 in ((1.0, 0.0), (0.0, 1.0)):
        constants = AdamConstants()
        thetas = [torch.tensor([side * theta0]) for side in (1, -1)]
        states = [
            AdamState(torch.tensor([side * m0]), torch.tensor([1 / constants.a2]), 10**6) for side in (1, -1)
        ]
        for theta, state in zip(thetas, states, strict=True):
            local_step(theta, torch.zeros(1), state, constants, lr=1.0)
        mixer = Mixer({Section.BLOCK: torch.zeros(1)}, 1, {Section.BLOCK: thetas[0]})
        mixer.add("other", Section.BLOCK, 0, eigenvalue / 2, thetas[1])
        d = mixer.finish()
        moment_rule("signal").apply(one_block((1,)), states[0], d, 1.0, constants)
        columns.append([float(thetas[0] + d[Section.BLOCK]), states[0].m.item()])
    return torch.tensor(columns, dtype=torch.float64).T


def spectral_radius(matrix: Tensor) -> float:
    return float(torch.linalg.eigvals(matrix).abs().max())


def test_mixing_is_the_weighted_sum_over_the_neighbours() -> None:
    """docs/theory.md, "Mixing", the paper's own equation: theta_next = sum_j w_ij theta_half_j"""
    thetas = [torch.randn(6) for _ in range(5)]
    peers = Peers(thetas, one_block((2, 3)), moment_rule("none"), AdamConstants(), overlay="ring")
    peers.mix(lr=0.1)
    expected = mixing_matrix("ring", list("01234")) @ torch.stack(thetas).double()
    assert torch.allclose(torch.stack(peers.thetas).double(), expected, atol=1e-6)


@pytest.mark.parametrize("encoding", ["fp32", "bf16-delta"])
@pytest.mark.parametrize("overlay", ["ring", "exponential", "full", "edges:0-1,1-2,2-3,2-4"])
def test_mixing_keeps_the_network_average(overlay: str, encoding: str) -> None:
    """d = sum_j w_ij (public_j - public_i): "coding errors cancel and the network average is kept" (T1)."""
    thetas = [torch.rand(64) for _ in range(5)]
    peers = Peers(
        thetas, one_block((8, 8)), moment_rule("none"), AdamConstants(), overlay=overlay, encoding=encoding
    )
    before = peers.average
    for _ in range(10):
        peers.mix(lr=0.1)
    assert float((peers.average - before).abs().max()) < 1e-6  # bf16 alone would be off by 2e-3


def test_a_missing_neighbour_contributes_nothing() -> None:
    """docs/theory.md, "Mixing": "A neighbour that was late or lost adds nothing to d"; the rest keep their weights."""
    mixer = Mixer({Section.BLOCK: torch.zeros(1)}, 1, {Section.BLOCK: torch.zeros(1)})
    mixer.add("heard", Section.BLOCK, 0, 1 / 3, torch.tensor([3.0]))
    assert mixer.finish()[Section.BLOCK].item() == pytest.approx(1.0)


def test_metropolis_weights() -> None:
    """w_ij = 1 / (1 + D) on `full` and 1 / max(1 + D, 1.25 D) otherwise, D = max(deg_i, deg_j)"""
    for degree in range(1, 12):
        assert edge_weight("full", degree, 1) == 1 / (1 + degree)
        assert edge_weight("ring", 1, degree) == 1 / max(1 + degree, 1.25 * degree)


@pytest.mark.parametrize("graph", DENSE)
def test_the_rule_of_125_reaches_16_on_dense_bipartite_graphs(graph: str) -> None:
    """T4: "The factor keeps x at 1.6 or below on every graph"; these graphs reach it."""
    assert roughest(mixing_matrix(*DENSE[graph])) == pytest.approx(1.6)


def test_the_limit_is_the_printed_formula() -> None:
    """T4: "stable below 2 (1 + a1) / (1 + a1 + a1 (1 - b1)) = 1.617 only"."""
    assert pytest.approx(1.617, abs=5e-4) == LIMIT
    assert spectral_radius(recursion(LIMIT)) == pytest.approx(1.0, abs=1e-6)


def test_the_moment_recursion_is_the_one_the_limit_was_derived_from() -> None:
    """T4: theta' = (1 - x)(theta - a1 m),  m' = a1 m + (1 - b1) x (theta - a1 m),  x the eigenvalue of I - W"""
    x, a1, b1 = 1.3, 0.9, 0.5
    expected = torch.tensor([[1 - x, -(1 - x) * a1], [(1 - b1) * x, a1 - (1 - b1) * x * a1]]).double()
    assert torch.allclose(recursion(x), expected, atol=1e-6)


@pytest.mark.parametrize("eigenvalue", [0.1, 0.5, 1.0, 4 / 3, 1.5, 1.6])
def test_the_moment_recursion_is_stable_up_to_16(eigenvalue: float) -> None:
    assert spectral_radius(recursion(eigenvalue)) < 1


@pytest.mark.parametrize("eigenvalue", [1.62, 1.65, 5 / 3, 1.9])
def test_the_moment_recursion_is_unstable_beyond_1617(eigenvalue: float) -> None:
    assert spectral_radius(recursion(eigenvalue)) > 1


@pytest.mark.parametrize("graph", DENSE)
def test_plain_weights_are_unstable_on_dense_bipartite_graphs(graph: str) -> None:
    """T4: plain weights "exceed the limit on dense bipartite graphs": 5/3 on K_{5,5} and the 5-cube."""
    x = roughest(plain_weights(*DENSE[graph]))
    assert x == pytest.approx(5 / 3)
    assert spectral_radius(recursion(x)) > 1


@pytest.mark.parametrize("overlay", ["ring", "exponential"])
@pytest.mark.parametrize("peers", [2, 3, 8, 16, 31, 64])
def test_plain_weights_are_stable_on_the_ring_and_the_exponential_graph(overlay: str, peers: int) -> None:
    """T4: the limit is exceeded on dense graphs only; there the plain weights would do."""
    assert roughest(plain_weights(overlay, [f"{i:03}" for i in range(peers)])) < LIMIT
