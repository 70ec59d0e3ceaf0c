"""Mixing alone: the overlay's rho, and what passes with it do to peers that are apart."""

from __future__ import annotations

import pytest
import torch

from decad.core.chebyshev import MOST, OF_LARGE, accelerate, contraction, relaxation
from decad.core.overlay import mixing_matrix

OVERLAYS = ["ring", "exponential", "line", "random:2"]


def ids(peers: int) -> list[str]:
    return [f"{i:04}" for i in range(peers)]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("peers", [2, 3, 8, 33])
def test_rho_is_the_second_modulus_of_the_mixing_matrix(overlay: str, peers: int) -> None:
    moduli = torch.linalg.eigvalsh(mixing_matrix(overlay, ids(peers))).abs().sort().values
    assert contraction(overlay, ids(peers), {}) == pytest.approx(float(moduli[-2]), abs=1e-6)


def test_one_peer_and_those_who_all_meet_have_nothing_left_after_one_pass() -> None:
    assert contraction("full", ids(5), {}) == contraction("ring", ids(1), {}) == 0
    assert [relaxation(k, 0.0) for k in range(4)] == [1, 1, 1, 1]


def test_names_join_edges() -> None:
    assert contraction("edges:a-b", ["1", "2"], {"1": "a", "2": "b"}) == 0
    assert contraction("edges:a-b", ["1", "2"], {}) == 0.999  # in pieces


def test_of_a_large_network_it_is_taken_to_be_so() -> None:
    assert contraction("ring", ids(MOST + 1), {}) == OF_LARGE


def test_one_pass_in_place() -> None:
    theta, d, before = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0]), torch.tensor([1.0, 0.0])
    accelerate(theta, d, before, 1.5)
    assert theta.tolist() == [1.0 + 1.5 * 0.5, 0.0 + 1.5 * 1.0]
    assert before.tolist() == [1.0, 2.0]
