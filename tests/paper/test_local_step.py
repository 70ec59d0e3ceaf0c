"""docs/theory.md, "The local step": one test an equation, in fp64 by hand."""

from __future__ import annotations

import math

import pytest
import torch

from decad.core.adam import AdamState, local_step
from decad.core.constants import AdamConstants

LR = 0.01
C = AdamConstants(a1=0.8, a2=0.9, eps=1e-3)
THETA, M, V, G, R = 0.5, 0.2, 0.3, -0.7, 4
"""One parameter before inner step R, and its gradient."""


def after_local_step(constants: AdamConstants = C) -> tuple[float, AdamState]:
    theta = torch.tensor([THETA])
    state = AdamState(torch.tensor([M]), torch.tensor([V]), R)
    local_step(theta, torch.tensor([G]), state, constants, LR)
    return theta.item(), state


M_HALF = 0.8 * M + 0.2 * G
V_HALF = 0.9 * V + 0.1 * G * G
M_HAT = M_HALF / (1 - 0.8 ** (R + 1))
V_HAT = V_HALF / (1 - 0.9 ** (R + 1))
MOVE = LR * M_HAT / (math.sqrt(V_HAT) + 1e-3)


def test_first_moment() -> None:
    """m_half = a1 m_r + (1 - a1) g"""
    assert after_local_step()[1].m.item() == pytest.approx(M_HALF, rel=1e-6)


def test_second_moment() -> None:
    """v_half = a2 v_r + (1 - a2) g g"""
    assert after_local_step()[1].v.item() == pytest.approx(V_HALF, rel=1e-6)


def test_local_adam_step() -> None:
    """theta_half = theta_r - lr m_hat / (sqrt(v_hat) + eps), bias corrected by the updates in this phase"""
    assert after_local_step()[0] == pytest.approx(THETA - MOVE, rel=1e-6)


def test_bias_correction_counts_the_updates_since_the_block_became_active() -> None:
    """r + 1 local updates after inner step r: the first step of a phase is lr in size, whatever the gradient."""
    theta, state = torch.zeros(3), AdamState.zeros(3, "cpu")
    local_step(theta, torch.tensor([1e-3, -5.0, 70.0]), state, AdamConstants(), LR)
    assert state.updates == 1
    assert torch.allclose(theta, torch.tensor([-LR, LR, -LR]), rtol=1e-4)


def test_weight_decay_is_decoupled_and_part_of_theta_half() -> None:
    """AdamW: lr * weight_decay of the value goes, and the moments do not see it."""
    theta, state = after_local_step(AdamConstants(a1=0.8, a2=0.9, eps=1e-3, weight_decay=0.1))
    assert theta == pytest.approx(THETA * (1 - LR * 0.1) - MOVE, rel=1e-6)
    assert state.m.item() == pytest.approx(M_HALF, rel=1e-6)


def test_the_published_constants_are_the_defaults() -> None:
    """a1 0.9, a2 0.999 and eps 1e-8 as in Adam, b1 0.5 as `rowwise` has it, b2 0.999; no weight decay, no clipping."""
    assert AdamConstants() == AdamConstants(0.9, 0.999, 0.5, 0.999, 1e-8, 0.0, 0.0)
