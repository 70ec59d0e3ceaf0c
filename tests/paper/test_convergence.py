"""Heterogeneous quadratics: what the peers learn from each other, against each peer alone."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from support.peers import Peers, one_block
from torch import Tensor

from decad.core.constants import AdamConstants
from decad.core.moments import default_b1, moment_rule

N, SHAPE, STEPS = 5, (6, 8), 100
BLOCK = one_block(SHAPE)
RNG = torch.Generator().manual_seed(1)
CENTRES = torch.randn(N, BLOCK.numel, generator=RNG)
CURVATURES = torch.rand(N, BLOCK.numel, generator=RNG) * 0.9 + 0.1


def gradient(peer: int, theta: Tensor) -> Tensor:
    """Of F_i(theta) = 1/2 sum_k a_ik (theta_k - c_ik)^2: every peer pulls elsewhere, with other strength."""
    return CURVATURES[peer] * (theta - CENTRES[peer])


def excess(theta: Tensor) -> float:
    """Mean over the peers of F_i(theta), above its least value."""

    def objective(at: Tensor) -> float:
        return float((CURVATURES * (at - CENTRES) ** 2).sum(dim=1).mean() / 2)

    best = (CURVATURES * CENTRES).sum(dim=0) / CURVATURES.sum(dim=0)
    return objective(theta) - objective(best)


@cache
def trained(name: str, overlay: str = "ring", encoding: str = "fp32") -> Peers:
    constants = AdamConstants(b1=default_b1(name))
    start = [torch.zeros(BLOCK.numel)] * N
    peers = Peers(start, BLOCK, moment_rule(name), constants, overlay=overlay, encoding=encoding)
    for step in range(STEPS):
        peers.step(gradient, 0.1 * (1 - step / STEPS))
    return peers


def mean_excess(peers: Peers) -> float:
    """Of the peers' own models."""
    return sum(excess(theta) for theta in peers.thetas) / N


RULES = ["rowwise", "gossip", "signal", "none"]
ALONE = "edges:nobody-else"


@pytest.mark.parametrize("name", RULES)
def test_mixing_beats_alone(name: str) -> None:
    """A peer's own model ends far nearer to the common optimum than it does alone."""
    assert mean_excess(trained(name)) < 0.1 * mean_excess(trained(name, ALONE))


@pytest.mark.parametrize("name", RULES)
def test_changes_in_bf16_cost_nothing(name: str) -> None:
    """docs/theory.md, "Encodings": changes with error feedback end where fp32 does."""
    exact = mean_excess(trained(name))
    assert mean_excess(trained(name, encoding="bf16-delta")) == pytest.approx(exact, rel=0.01, abs=1e-4)


def test_the_more_of_v_is_mixed_the_less_bias_is_left() -> None:
    """T14: `gossip` before `rowwise` before `none`; only a common v finds the common optimum."""
    gossip, rowwise, none = (mean_excess(trained(name)) for name in ("gossip", "rowwise", "none"))
    assert gossip < 0.1 * rowwise
    assert rowwise < none


@pytest.mark.parametrize("name", ["rowwise", "signal"])
def test_the_signal_draws_the_peers_together(name: str) -> None:
    """docs/theory.md, "Moment rules": the drift enters m as a gradient, so the steps too lead towards the others."""

    def distance(peers: Peers) -> float:
        return float((torch.stack(peers.thetas) - peers.average).norm())

    assert distance(trained(name)) < distance(trained("none"))


@pytest.mark.parametrize(
    ("name", "found"), [("none", False), ("signal", False), ("rowwise", True), ("gossip", True)]
)
def test_who_keeps_his_own_v_votes_by_sign(name: str, found: bool) -> None:
    """T14: three peers that want 0, 0 and 3: the mean is 1. With v of their own the majority, 0, pulls them away.

    One value, so that `rowwise` mixes all of v. They begin at 1, where a common v would leave them.
    """
    wishes = torch.tensor([0.0, 0.0, 3.0])
    constants = AdamConstants(b1=default_b1(name))
    peers = Peers([torch.ones(1)] * 3, one_block((1,)), moment_rule(name), constants)
    for step in range(600):
        peers.step(lambda i, theta: theta - wishes[i], 0.02 * (1 - step / 600))
    assert (abs(float(peers.average) - 1) < 0.02) == found
    assert found or float(peers.average) < 0.5
