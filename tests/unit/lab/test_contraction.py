"""The second eigenvalue of large mixing matrices, against formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from decad.lab.contraction import DENSE, second_modulus


def around(peers: int, *, closed: bool) -> tuple[np.ndarray, np.ndarray]:
    one = np.arange(peers if closed else peers - 1)
    other = (one + 1) % peers
    return np.concatenate([one, other]), np.concatenate([other, one])


@pytest.mark.parametrize("peers", [9, DENSE, DENSE + 1, 3000])
@pytest.mark.parametrize("closed", [True, False])
def test_rings_and_lines_with_weights_of_a_third(peers: int, closed: bool) -> None:
    """W = I - L / 3, and the eigenvalues of a cycle's and a path's Laplacian L are known."""
    source, target = around(peers, closed=closed)
    expected = 1 - 2 / 3 * (1 - math.cos((2 if closed else 1) * math.pi / peers))
    found = second_modulus(source, target, np.full(len(source), 1 / 3), peers)
    assert 1 - found == pytest.approx(1 - expected, rel=1e-4)


@pytest.mark.parametrize("peers", [10, DENSE + 2])
def test_two_parts_never_agree(peers: int) -> None:
    source, target = around(peers // 2, closed=True)
    both = np.concatenate([source, source + peers // 2]), np.concatenate([target, target + peers // 2])
    assert second_modulus(*both, np.full(2 * len(source), 0.3), peers) == pytest.approx(1)


def test_an_eigenvalue_near_minus_one_counts() -> None:
    assert second_modulus(np.array([0, 1]), np.array([1, 0]), np.array([0.95, 0.95]), 2) == pytest.approx(0.9)
