from __future__ import annotations

import torch

from decad.core.adam import AdamState, local_step
from decad.core.constants import AdamConstants
from decad.core.pieces import PIECE, pieces


def test_pieces_cover_every_element_once_in_order() -> None:
    assert [(p.start, p.stop) for p in pieces(10, 4)] == [(0, 4), (4, 8), (8, 10)]
    assert list(pieces(0, 4)) == []


def test_moments_start_at_zero_without_updates() -> None:
    state = AdamState.zeros(3, "cpu")
    assert state.updates == 0
    assert state.m.dtype == state.v.dtype == torch.float32
    assert state.m.tolist() == state.v.tolist() == [0.0, 0.0, 0.0]


def test_the_gradient_is_only_read() -> None:
    grad = torch.tensor([3.0, 4.0])
    local_step(torch.zeros(2), grad, AdamState.zeros(2, "cpu"), AdamConstants(clip=1.0), 0.1)
    assert grad.tolist() == [3.0, 4.0]


def test_clipping_is_by_the_norm_over_the_whole_block() -> None:
    grad = torch.ones(PIECE + 1)
    grad[-1] = 1000.0  # in a piece of its own: the norm must span both
    state = AdamState.zeros(grad.numel(), "cpu")
    local_step(torch.zeros_like(grad), grad, state, AdamConstants(clip=1.0), 0.1)
    assert torch.allclose(state.m / (1 - 0.9), grad / grad.norm(), rtol=1e-4)


def test_a_gradient_below_the_limit_is_not_clipped() -> None:
    plain, clipped = AdamState.zeros(2, "cpu"), AdamState.zeros(2, "cpu")
    grad = torch.tensor([0.3, 0.4])
    local_step(torch.zeros(2), grad, plain, AdamConstants(), 0.1)
    local_step(torch.zeros(2), grad, clipped, AdamConstants(clip=0.6), 0.1)
    assert torch.equal(plain.m, clipped.m)


def test_clipping_a_zero_gradient_gives_numbers() -> None:
    theta = torch.ones(2)
    local_step(theta, torch.zeros(2), AdamState.zeros(2, "cpu"), AdamConstants(clip=1.0), 0.1)
    assert theta.tolist() == [1.0, 1.0]


def test_a_leaf_that_requires_grad_can_be_stepped() -> None:
    theta = torch.ones(2, requires_grad=True)
    local_step(theta, torch.ones(2), AdamState.zeros(2, "cpu"), AdamConstants(), 0.1)
    assert theta.grad_fn is None
