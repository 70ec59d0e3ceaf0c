"""docs/theory.md, "How fast the peers agree": T3, T5 and T15."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from support.exact import SGD, ExactPeers, peer_ids, weights
from support.exact import overlay as overlay_text
from torch import Tensor

from decad.core.chebyshev import accelerate, contraction, relaxation

OVERLAYS = ["full", "exponential", "ring", "line"]
THEORY = (Path(__file__).parents[2] / "docs" / "theory.md").read_text(encoding="utf-8")


def spectrum(overlay: str, peers: int) -> tuple[float, Tensor]:
    """rho, and the eigenvector of W that it belongs to, [N]."""
    values, vectors = torch.linalg.eigh(weights(overlay, peers))
    slowest = int(values[:-1].abs().argmax())  # the last belongs to the average
    return float(values[slowest].abs()), vectors[:, slowest]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("peers", [2, 5, 16])
def test_the_distance_shrinks_at_least_by_rho(overlay: str, peers: int) -> None:
    """T3: |theta_next - average| <= rho |theta_half - average|, from anywhere, in every single mixing."""
    rng = torch.Generator().manual_seed(peers)
    network = ExactPeers(torch.randn(peers, 40, generator=rng), overlay)
    rho, _ = spectrum(overlay, peers)
    for _ in range(20):
        before = network.distance
        network.mix()
        assert network.distance <= rho * before * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("overlay", ["exponential", "ring", "line"])
@pytest.mark.parametrize("peers", [8, 16])
def test_the_slowest_disagreement_shrinks_by_rho_and_no_faster(overlay: str, peers: int) -> None:
    """T3: "exactly so for the slowest eigenvector": rho^k after k mixings."""
    rho, slowest = spectrum(overlay, peers)
    network = ExactPeers(slowest.unsqueeze(1), overlay)
    for _ in range(20):
        network.mix()
    assert network.distance == pytest.approx(rho**20, rel=1e-9)


def settled(network: ExactPeers, rho: float, passes: int) -> list[float]:
    """The distances after each of so many accelerated passes, from the one before the first."""
    distances, before = [network.distance], network.thetas.clone()
    for k in range(passes):
        theta = network.thetas.clone()
        network.mix()
        d = network.thetas - theta
        for i in range(network.peers):
            accelerate(theta[i], d[i], before[i], relaxation(k, rho) if k else 1.0)
        network.thetas = theta
        distances.append(network.distance)
    return distances


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("peers", [2, 5, 8, 16])
def test_accelerated_the_distance_shrinks_by_chebyshevs_bound(overlay: str, peers: int) -> None:
    """T15: distance_k <= 2 c^k / (1 + c^2k) distance_0, c = (1 - sqrt(1 - rho^2)) / rho, and the average stays."""
    network = ExactPeers(
        torch.randn(peers, 40, generator=torch.Generator().manual_seed(peers), dtype=torch.float64), overlay
    )
    average = network.average
    rho = contraction(overlay_text(overlay, peers), peer_ids(peers), {})
    assert rho == pytest.approx(spectrum(overlay, peers)[0], abs=1e-6)
    c = (1 - math.sqrt(1 - rho**2)) / rho if rho else 0.0
    distances = settled(network, rho, 24)
    for k, distance in enumerate(distances):
        assert distance <= 2 * c**k / (1 + c ** (2 * k)) * distances[0] * (1 + 1e-6) + 1e-9
    assert torch.allclose(network.average, average, atol=1e-9)


@pytest.mark.parametrize("wrong", [0.0, 0.3, 0.999])
def test_with_a_wrong_rho_nobody_is_driven_apart(wrong: float) -> None:
    """T15: |T_k(lambda / rho) / T_k(1 / rho)| <= 1 for every eigenvalue of W, whatever rho."""
    network = ExactPeers(
        torch.randn(16, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64), "ring"
    )
    distances = settled(network, wrong, 60)
    assert max(distances) <= distances[0] * (1 + 1e-9)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_printed_rho(overlay: str) -> None:
    """T3, table: rho and the mixings that take the distance to a tenth, for 8, 16 and 64 peers."""
    row = re.search(rf"^\| `?{overlay}`? \|(.*)\|$", THEORY, re.MULTILINE)
    assert row
    for peers, cell in zip((8, 16, 64), row[1].split("|"), strict=True):
        printed, mixings = cell.strip(" )").split(" (")
        rho = spectrum(overlay, peers)[0]
        assert rho == pytest.approx(float(printed), abs=5e-5)
        assert int(mixings) == (math.ceil(math.log(10) / -math.log(rho)) if rho > 1e-9 else 1)


@pytest.mark.parametrize("peers", [3, 4, 5, 8, 64])
def test_rho_of_the_ring_and_of_the_line(peers: int) -> None:
    """T3: rho = 1/3 + 2/3 cos(2 pi / N) on the ring, with pi / N on the line."""
    for overlay, angle in (("ring", 2 * math.pi / peers), ("line", math.pi / peers)):
        assert spectrum(overlay, peers)[0] == pytest.approx(1 / 3 + 2 / 3 * math.cos(angle))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_steady_steps_keep_the_peers_within_rho_over_one_minus_rho(overlay: str) -> None:
    """T5: never further apart than rho / (1 - rho) times how far one step's moves are apart."""
    rng = torch.Generator().manual_seed(3)
    gradients = torch.randn(8, 40, dtype=torch.float64, generator=rng)
    network, step = ExactPeers(torch.zeros(8, 40), overlay), 0.1
    rho, _ = spectrum(overlay, 8)
    apart = step * float((gradients - gradients.mean(dim=0)).norm())
    for _ in range(200):
        network.step(gradients, step * SGD.eps)
        assert network.distance <= rho / (1 - rho) * apart * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize("overlay", ["exponential", "ring"])
def test_the_slowest_disagreement_settles_at_rho_over_one_minus_rho(overlay: str) -> None:
    """T5: reached, by moves along the slowest eigenvector."""
    rho, slowest = spectrum(overlay, 8)
    network, step = ExactPeers(torch.zeros(8, 1), overlay), 0.1
    for _ in range(200):
        network.step(slowest.unsqueeze(1), step * SGD.eps)
    assert network.distance == pytest.approx(rho / (1 - rho) * step, rel=1e-6)
