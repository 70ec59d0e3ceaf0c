"""Differential privacy of the local step: each example's gradient clipped, and Gaussian noise on their sum.

    g = (sum_i g_i * min(1, C / ||g_i||) + sigma * C * N(0, I)) / B

(DP-SGD: Abadi et al., arXiv 1607.00133.) Everything that leaves a machine follows from such gradients. An epoch visits
each example once, so over E epochs an example takes part in at most E steps, whatever their order: the Gaussian
mechanism composed E times, which is exactly one with mu = sqrt(E) / sigma (Dong, Roth and Su, arXiv 1905.02383), and
needs no assumption on how batches are drawn. Privacy amplification by sampling, which the accountants of libraries
count on, is not claimed: it supposes batches drawn anew for each step.
"""

from __future__ import annotations

import math
import secrets
from typing import NamedTuple

import torch
from torch import Tensor

DELTA = 1e-5


class LocalPrivacy(NamedTuple):
    """What this machine asks for its data."""

    noise: float
    """sigma: standard deviation of the noise, in clipping norms."""
    clip: float
    """C: largest norm of one example's gradient over the active block."""


class PrivateSum:
    """One step's gradient as its examples come. Vectors are fp32 [n]."""

    def __init__(self, privacy: LocalPrivacy, elements: int, device: torch.device) -> None:
        self._privacy = privacy
        self._sum = torch.zeros(elements, device=device)

    def add(self, gradient: Tensor) -> None:
        """One example's. One that is not finite counts as none: its size would not be bounded."""
        norm = float(torch.linalg.vector_norm(gradient))
        if math.isfinite(norm):
            self._sum.add_(gradient, alpha=min(1.0, self._privacy.clip / norm) if norm > 0 else 1.0)

    def finish(self, examples: int) -> Tensor:
        """The noisy mean over ``examples``. What was added is used up."""
        generator = torch.Generator(self._sum.device).manual_seed(secrets.randbits(63))
        noise = torch.randn(self._sum.shape, generator=generator, device=self._sum.device)
        return self._sum.add_(noise, alpha=self._privacy.noise * self._privacy.clip).div_(examples)


def epsilon(noise: float, epochs: int, delta: float = DELTA) -> float:
    """The privacy loss of an example after ``epochs`` visits, for adding or leaving out one example.

    By the exact trade-off of the Gaussian mechanism (Balle and Wang, arXiv 1805.06530). Infinite without noise.
    """
    if not epochs:
        return 0.0
    if noise <= 0:
        return math.inf
    mu = math.sqrt(epochs) / noise

    def spent(at: float) -> float:
        return _normal(-at / mu + mu / 2) - math.exp(at + _log_normal(-at / mu - mu / 2))

    low, high = 0.0, 1.0
    while spent(high) > delta:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > delta else (low, middle)
    return high


def _normal(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def _log_normal(x: float) -> float:
    """log of the normal distribution function, also where it is too small for a double."""
    if x > -30:
        return math.log(_normal(x))
    return -x * x / 2 - math.log(-x * math.sqrt(2 * math.pi)) - 1 / (x * x)
