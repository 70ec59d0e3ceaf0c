"""docs/theory.md, "Moment rules": one test an equation or claim."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from support.peers import Peers, given, one_block
from torch import Tensor

from decad.core.adam import AdamState, local_step
from decad.core.constants import AdamConstants
from decad.core.moments import MomentRule, default_b1, moment_rule
from decad.core.section import Section

LR = 0.01
C = AdamConstants()
BLOCK = one_block((2, 3), (2,))
"""A matrix and a vector: rows of 3, 3 and 2 elements."""


def half_state() -> AdamState:
    """m_half and v_half after four updates."""
    torch.manual_seed(3)
    return AdamState(torch.randn(8), torch.rand(8) + 0.1, 4)


def drift(**other: Tensor) -> dict[Section, Tensor]:
    """d_BLOCK from far below to far above a step, and what else is given."""
    d = torch.tensor([-9.0, -3.0, -1.0, -0.1, 0.0, 0.5, 2.0, 9.0]) * LR
    return {Section.BLOCK: d} | {Section[name]: value for name, value in other.items()}


def applied(rule: MomentRule, d: dict[Section, Tensor], lr: float = LR) -> AdamState:
    state = half_state()
    rule.apply(BLOCK, state, d, lr, C)
    return state


def signal_of(state: AdamState, d: Tensor) -> Tensor:
    """h = m_half - q (sqrt(v_hat) + eps) (1 - a1^(r+1)), q = clip(d / lr, -3, 3)"""
    q = (d / LR).clamp(-3, 3)
    v_hat = state.v / (1 - C.a2**state.updates)
    return state.m - q * (v_hat.sqrt() + C.eps) * (1 - C.a1**state.updates)


def test_signal_moves_the_first_moment_towards_h() -> None:
    """m_next = b1 m_half + (1 - b1) h"""
    before, after = half_state(), applied(moment_rule("signal"), drift())
    expected = C.b1 * before.m + (1 - C.b1) * signal_of(before, drift()[Section.BLOCK])
    assert torch.allclose(after.m, expected, rtol=1e-5)


def test_signal_leaves_the_second_moment() -> None:
    """`signal`: v_next = v_half"""
    assert torch.equal(applied(moment_rule("signal"), drift()).v, half_state().v)


def test_the_drift_is_clipped_at_three_steps() -> None:
    """q = clip(d / lr, -3, 3)"""
    three = applied(moment_rule("signal"), {Section.BLOCK: torch.full((8,), 3 * LR)})
    nine = applied(moment_rule("signal"), {Section.BLOCK: torch.full((8,), 9 * LR)})
    assert torch.equal(three.m, nine.m)


def test_there_is_no_drift_without_a_learning_rate() -> None:
    """q = 0 where lr = 0"""
    assert torch.equal(applied(moment_rule("signal"), drift(), lr=0.0).m, half_state().m)


def test_the_signal_is_the_gradient_that_would_have_caused_the_drift() -> None:
    """Unit: with h for m_half, the local step would have ended at theta_half + d."""
    d, m_hat_scale = torch.full((8,), 0.5 * LR), 1 - C.a1**4
    state = half_state()
    v_hat = state.v / (1 - C.a2**4)
    step_of_h = -LR * (signal_of(state, d) / m_hat_scale) / (v_hat.sqrt() + C.eps)
    step_of_m = -LR * (state.m / m_hat_scale) / (v_hat.sqrt() + C.eps)
    assert torch.allclose(step_of_h, step_of_m + d, atol=1e-6)


def test_without_neighbours_signal_is_exactly_adam() -> None:
    """`signal`: "Without neighbours d = 0, so h = m_half, and the rule is Adam exactly": bit for bit over 50 steps."""
    constants = AdamConstants(b1=default_b1("signal"), weight_decay=0.1)
    alone = Peers([torch.ones(8)], BLOCK, moment_rule("signal"), constants)
    theta, state = torch.ones(8), AdamState.zeros(8, "cpu")
    for step in range(50):
        grad = torch.sin(torch.arange(8.0) + step)
        alone.step(given(grad), LR)
        local_step(theta, grad, state, constants, LR)
    assert torch.equal(alone.thetas[0], theta)
    assert torch.equal(alone.states[0].m, state.m)


def test_weight_decay_cancels_in_the_signal() -> None:
    """Weights that are alike decay alike, which leaves d: from one theta the moments are the same with and without."""
    moments = []
    for decay in (0.0, 0.5):
        constants = AdamConstants(weight_decay=decay)
        peers = Peers([torch.linspace(1, 2, 8)] * 3, BLOCK, moment_rule("signal"), constants)
        peers.step(lambda i, theta: torch.linspace(-1, 1, 8) * (i - 1.3), LR)
        moments.append(torch.stack([state.m for state in peers.states]))
    # d / lr of values near 1 carries their rounding, 6e-8 / 0.01.
    assert torch.allclose(moments[0], moments[1], atol=1e-4)
    assert float(moments[0].std()) > 0.01


def test_the_signal_of_rowwise_has_half_the_weight_of_m() -> None:
    """b1 0.5 for `rowwise` and 0.9 for `signal`"""
    assert (default_b1("rowwise"), default_b1("signal")) == (0.5, 0.9)


def test_rowwise_takes_the_first_moment_from_signal() -> None:
    """`rowwise`: "the first moment as in `signal`", made of v_half, not of v_next"""
    d = drift(SECOND=torch.tensor([0.3, -0.05, 0.2]))
    assert torch.equal(applied(moment_rule("rowwise"), d).m, applied(moment_rule("signal"), d).m)


def test_row_means_run_over_the_last_index_and_over_whole_vectors() -> None:
    """rho_i = mean of v_half over the last index (the whole mean for vectors)"""
    v = torch.tensor([1.0, 2, 3, 4, 5, 9, 10, 20])
    rho = moment_rule("rowwise").outgoing(BLOCK, AdamState(torch.zeros(8), v, 1))[Section.SECOND]
    assert rho.tolist() == [2.0, 6.0, 15.0]


def test_rowwise_scales_rows_to_the_mixed_means() -> None:
    """rho_mix = rho_i + sum_j w_ij (rho_j - rho_i), v_next = v_half rho_mix / rho_i"""
    d_rho, before = torch.tensor([0.3, -0.05, 0.2]), half_state()
    after = applied(moment_rule("rowwise"), drift(SECOND=d_rho))
    rho = BLOCK.row_means(before.v)
    factor = ((rho + d_rho) / rho).repeat_interleave(torch.tensor([3, 3, 2]))
    assert torch.allclose(after.v, before.v * factor, rtol=1e-6)


def test_rows_that_saw_no_gradient_take_the_mixed_mean() -> None:
    """`rowwise`: v_next = "rho_mix itself in rows with rho < 1e-30", such as an unseen token's"""
    state = half_state()
    state.v[:3] = 0.0
    moment_rule("rowwise").apply(BLOCK, state, drift(SECOND=torch.tensor([0.25, 0.0, 0.0])), LR, C)
    assert state.v[:3].tolist() == [0.25] * 3


def test_one_neighbours_row_means_change_v_by_its_weight() -> None:
    """Flipping one neighbour's row means changes v_next by w_ij (rho_j' - rho_j) / rho_i, row by row."""

    after, rho_j, mine, theirs = [], [], torch.ones(8), torch.tensor([1.0, 1, 1, 2, 2, 2, 3, 3])
    for grad in (theirs, theirs.flip(0)):
        peers = Peers([torch.zeros(8)] * 3, BLOCK, moment_rule("rowwise"), C)
        peers.step(given(mine, grad, mine), LR)
        after.append(peers.states[0].v)
        rho_j.append(BLOCK.row_means((1 - C.a2) * grad * grad))
    v_half = (1 - C.a2) * mine * mine
    w_ij, rho = 1 / 3, BLOCK.row_means(v_half)
    change = (w_ij * (rho_j[1] - rho_j[0]) / rho).repeat_interleave(torch.tensor([3, 3, 2]))
    assert torch.allclose(after[1] - after[0], v_half * change, rtol=1e-4, atol=1e-8)


def test_gossip_mixes_both_moments_like_the_block() -> None:
    """m_i + sum_j w_ij (m_j - m_i), and the same for v"""
    peers = Peers([torch.zeros(8)] * 3, BLOCK, moment_rule("gossip"), C)
    peers.train(lambda i, theta: torch.linspace(-1, 1, 8) * (i + 1), LR)
    m = torch.stack([state.m for state in peers.states]).mean(dim=0)
    v = torch.stack([state.v for state in peers.states]).mean(dim=0)
    peers.mix(LR)
    for state in peers.states:  # on the full overlay one mix is the average
        assert torch.allclose(state.m, m, atol=1e-7)
        assert torch.allclose(state.v, v, rtol=1e-5)


def test_none_mixes_the_block_only() -> None:
    """`none`: block Adam with mixing only"""
    after, before = applied(moment_rule("none"), drift()), half_state()
    assert torch.equal(after.m, before.m)
    assert torch.equal(after.v, before.v)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_printed_rule(sign: Literal[1, -1]) -> None:
    """The paper's (arXiv 2606.03209): h = +-(theta_next - theta_r),

    m_next = b1 m_half + (1 - b1) h,  v_next = b2 v_half + (1 - b2) h h.
    """
    before = Peers([torch.full((8,), i / 100) for i in range(3)], BLOCK, moment_rule("none"), C)
    rule = moment_rule("signal", unit="parameter", sign=sign)
    peers = Peers(before.thetas, BLOCK, rule, C)

    def gradient(i: int, theta: Tensor) -> Tensor:
        return torch.linspace(-1, 1, 8) * (i + 1)

    peers.step(gradient, LR)
    halves = Peers(before.thetas, BLOCK, rule, C)
    halves.train(gradient, LR)
    for theta_r, theta_next, half, state in zip(
        before.thetas, peers.thetas, halves.states, peers.states, strict=True
    ):
        h = sign * (theta_next - theta_r)
        assert torch.allclose(state.m, C.b1 * half.m + (1 - C.b1) * h, atol=1e-6)
        assert torch.allclose(state.v, C.b2 * half.v + (1 - C.b2) * h * h, atol=1e-8)


def test_the_printed_sign_points_down_where_adam_subtracts() -> None:
    """The paper's h = theta_next - theta_r points downhill, and Adam subtracts m: with this sign h turns m around."""
    state = AdamState(torch.full((8,), 0.1), torch.full((8,), 0.001), 1)
    constants = AdamConstants(b1=0.0)
    moment_rule("signal", unit="parameter", sign=1).apply(
        BLOCK, state, {Section.BLOCK: torch.zeros(8)}, LR, constants
    )
    assert bool((state.m < 0).all())


def test_a_late_joiners_moments_are_compared_bias_corrected() -> None:
    """Steady gradients: one update or twenty estimate the same v, so mixing them changes nothing."""
    peers = Peers([torch.zeros(8)] * 2, BLOCK, moment_rule("gossip"), C)
    grad = torch.linspace(1, 2, 8)
    for theta, state, updates in zip(peers.thetas, peers.states, (20, 1), strict=True):
        for _ in range(updates):
            local_step(theta, grad, state, C, LR)
    before = [(state.m.clone(), state.v.clone()) for state in peers.states]
    peers.mix(LR)
    for state, (m, v) in zip(peers.states, before, strict=True):
        assert torch.allclose(state.m, m, rtol=1e-5)
        assert torch.allclose(state.v, v, rtol=1e-4)
