from __future__ import annotations

import hashlib

import torch

from decad.model.rounding import round_stochastically


def rounded(master: torch.Tensor, seed: int = 1, step: int = 2, block: int = 3) -> torch.Tensor:
    out = torch.empty_like(master, dtype=torch.bfloat16)
    round_stochastically(master, out, seed=seed, step=step, block=block)
    return out


def test_unbiased_for_either_sign() -> None:
    """0.3 of a bf16 step above 1: three in ten go up, and the mean is the value."""
    step = 2.0**-7
    for sign in (1.0, -1.0):
        value = sign * (1 + 0.3 * step)
        got = rounded(torch.full((200_000,), value)).float()
        assert set(got.tolist()) == {sign, sign * (1 + step)}
        assert abs(got.mean().item() - value) < 5 * step * (0.3 * 0.7 / 200_000) ** 0.5


def test_values_that_bf16_holds_are_kept() -> None:
    exact = torch.randn(10_000).bfloat16().float()
    assert torch.equal(rounded(exact).float(), exact)


def test_never_further_than_one_step() -> None:
    master = torch.randn(100_000)
    error = (rounded(master).float() - master).abs()
    assert bool((error <= master.abs() * 2.0**-7).all())


def test_equal_masters_stay_equal() -> None:
    master = torch.randn(5_001)
    assert torch.equal(rounded(master), rounded(master.clone()))


def test_seed_step_and_block_each_change_the_noise() -> None:
    master = torch.randn(1_000)
    base = rounded(master)
    for other in (rounded(master, seed=9), rounded(master, step=9), rounded(master, block=9)):
        assert not torch.equal(other, base)


def test_updates_below_half_a_step_survive_on_average() -> None:
    """A twentieth of a bf16 step, twenty times: nearest rounding would lose all of it."""
    values = torch.ones(50_000)
    update = 2.0**-7 / 20
    assert torch.equal((values + update).bfloat16().float(), values)
    for step in range(20):
        values = rounded(values + update, step=step).float()
    assert abs(values.mean().item() - (1 + 20 * update)) < 0.02 * 20 * update


def test_pieces_of_a_long_vector_do_not_repeat_the_noise() -> None:
    n = 1 << 20
    got = rounded(torch.full((2 * n,), 1 + 0.5 * 2.0**-7))
    assert not torch.equal(got[:n], got[n:])


def test_the_noise_is_frozen() -> None:
    """Peers with different versions of decad, numpy or torch must draw the same noise."""
    got = rounded(torch.full((4096,), 1 + 0.5 * 2.0**-7))
    went_up = bytes((got > 1).to(torch.uint8).tolist())
    assert hashlib.sha256(went_up).hexdigest()[:16] == "e735d875bb31b894"
