"""Noise and clipping of the local step, and what it is worth."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decad.core.privacy import DELTA, LocalPrivacy, PrivateSum, epsilon

CPU = torch.device("cpu")


@pytest.mark.parametrize(("noise", "epochs", "known"), [(1.0, 1, 4.377), (2.0, 4, 4.377)])
def test_the_gaussian_mechanism_gives_what_the_literature_has(
    noise: float, epochs: int, known: float
) -> None:
    """mu = 1 is epsilon 4.377 at delta 1e-5; four visits at twice the noise are one at the noise."""
    assert epsilon(noise, epochs) == pytest.approx(known, abs=2e-3)


@given(st.floats(0.3, 50), st.integers(1, 1000))
def test_epsilon_is_the_least_that_delta_allows(noise: float, epochs: int) -> None:
    """By the definition, on the curve of the two shifted normals: integrated here, not by the formula."""
    spent, mu = epsilon(noise, epochs), math.sqrt(epochs) / noise
    if spent > 500:
        return
    x = torch.linspace(-60, 60 + mu, 400_001, dtype=torch.float64)
    with_it, without = (torch.exp(-((x - at) ** 2) / 2) / math.sqrt(2 * math.pi) for at in (mu, 0.0))
    delta = float(torch.trapezoid((with_it - math.exp(spent) * without).clamp(min=0), x))
    assert delta == pytest.approx(DELTA, rel=0.05)


def test_nothing_seen_costs_nothing_and_no_noise_everything() -> None:
    assert epsilon(1.0, 0) == 0.0
    assert epsilon(0.0, 1) == math.inf


def test_more_noise_and_fewer_visits_are_safer() -> None:
    assert epsilon(2.0, 3) < epsilon(1.0, 3)
    assert epsilon(2.0, 3) < epsilon(2.0, 4)


def test_one_example_moves_the_sum_by_no_more_than_the_clipping_norm() -> None:
    private = PrivateSum(LocalPrivacy(noise=0.0, clip=0.5), 4, CPU)
    private.add(torch.full((4,), 1e6))
    assert float(private.finish(1).norm()) == pytest.approx(0.5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_example_whose_gradient_is_not_finite_counts_as_none(value: float) -> None:
    private = PrivateSum(LocalPrivacy(noise=0.0, clip=1.0), 2, CPU)
    private.add(torch.tensor([value, 1.0]))
    private.add(torch.tensor([0.3, 0.4]))
    assert private.finish(2).tolist() == pytest.approx([0.15, 0.2])


def test_the_noise_is_as_large_as_was_asked_for_and_never_the_same() -> None:
    first, second = (PrivateSum(LocalPrivacy(noise=3.0, clip=0.5), 100_000, CPU).finish(10) for _ in range(2))
    assert float(first.std()) == pytest.approx(3.0 * 0.5 / 10, rel=0.02)
    assert not torch.equal(first, second)
