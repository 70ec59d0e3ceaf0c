"""docs/theory.md, "What mixing keeps": T1 and T2, in fp64 where nothing but the rule itself can move an average."""

from __future__ import annotations

import pytest
import torch
from support.exact import ExactPeers
from support.peers import Peers, given, one_block
from torch import Tensor

from decad.core.constants import AdamConstants
from decad.core.moments import default_b1, moment_rule

N, ROWS, COLUMNS, LR = 9, 3, 4, 0.01
ROUNDING = 1e-12
"""fp64, values near 1, a hundred sums."""
ONE_ROUNDING = 2.0**-24
"""fp32, relative."""


def different(seed: int) -> Tensor:
    """Fp64 [N, ROWS * COLUMNS], around 0."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(N, ROWS * COLUMNS, dtype=torch.float64, generator=rng)


def half(name: str) -> ExactPeers:
    """Peers that have trained on different gradients of different size, and are to mix."""
    constants = AdamConstants(b1=default_b1(name))
    peers = ExactPeers(LR * different(0), "ring", name, constants, rows=ROWS)
    sizes = torch.linspace(1, 3, N, dtype=torch.float64).unsqueeze(1)
    for seed in range(1, 4):
        peers.train(sizes * (1 + different(seed)), LR)
    return peers


def mean_of(peers: ExactPeers, moment: Tensor) -> Tensor:
    """Over the peers: [n]."""
    return moment.view(N, -1).mean(dim=0)


@pytest.mark.parametrize("overlay", ["full", "ring", "exponential", "line"])
def test_mixing_keeps_the_average_whatever_the_messages_say(overlay: str) -> None:
    """T1: d_1 + ... + d_N = 0 for any public copies, here for copies that have nothing to do with the blocks."""
    peers = ExactPeers(different(0), overlay)
    before = peers.average
    for seed in range(100):
        peers.mix(public=different(seed))
    assert float((peers.average - before).abs().max()) < ROUNDING
    assert peers.distance > 1  # they did move


@pytest.mark.parametrize("encoding", ["fp32", "bf16-delta"])
def test_coded_messages_keep_the_average_of_the_half_steps(encoding: str) -> None:
    """T1 on the real bytes, in training: the average after a step is that of the half-steps, to fp32's rounding.

    One mixing on the ring rounds each value five times: a sum and a product a neighbour, and the end. A mixing with
    one's own theta_half for the public copy is off by bf16's rounding of a change, up to 2^-8 of a step of 0.1: tens of
    times what is allowed.
    """
    start = different(0).float()
    peers = Peers(
        list(start),
        one_block((ROWS, COLUMNS)),
        moment_rule("none"),
        AdamConstants(),
        overlay="ring",
        encoding=encoding,
    )
    for step in range(30):
        peers.train(given(*different(step).float()), 0.1)
        halves = torch.stack(peers.thetas).double()
        peers.mix(0.1)
        moved = torch.stack(peers.thetas).double().mean(dim=0) - halves.mean(dim=0)
        assert float(moved.abs().max()) < 5 * ONE_ROUNDING * float(halves.abs().max())


@pytest.mark.parametrize("moment", ["m", "v"])
def test_gossip_keeps_the_average_of_both_moments(moment: str) -> None:
    """T2: `gossip` keeps the averages of m and of v."""
    peers = half("gossip")
    before = mean_of(peers, getattr(peers.state, moment)).clone()
    peers.mix(LR)
    torch.testing.assert_close(mean_of(peers, getattr(peers.state, moment)), before, rtol=ROUNDING, atol=0)


def test_rowwise_keeps_the_average_of_the_row_means() -> None:
    """T2: `rowwise` keeps the average of the row means of v."""
    peers = half("rowwise")
    before = mean_of(peers, peers.block.row_means(peers.state.v))
    peers.mix(LR)
    after = mean_of(peers, peers.block.row_means(peers.state.v))
    torch.testing.assert_close(after, before, rtol=ROUNDING, atol=0)


def test_signal_keeps_the_average_of_m_where_all_have_one_v() -> None:
    """T2: the signals of all peers add up to zero if all have the same v and no q is clipped."""
    peers = half("signal")
    peers.thetas = 0.1 * LR * different(0)
    peers.state.v = peers.state.v.view(N, -1).mean(dim=0).repeat(N)
    before = mean_of(peers, peers.state.m).clone()
    peers.mix(LR)
    torch.testing.assert_close(mean_of(peers, peers.state.m), before, rtol=0, atol=ROUNDING)


def test_signal_moves_the_average_of_m_where_v_differ() -> None:
    """T2: with v of their own the peers count one drift differently, and the average of m moves."""
    peers = half("signal")
    peers.thetas = 0.1 * LR * different(0)
    before = mean_of(peers, peers.state.m).clone()
    peers.mix(LR)
    assert float((mean_of(peers, peers.state.m) - before).abs().max()) > 1e-3
