"""The adapters of one peer: trained in every step beside the active block, with moments that live through the run."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from decad.core.adam import AdamState, local_step
from decad.core.constants import AdamConstants


class Adapters:
    """``theta``: their values, fp32 [a], which the model uses; ``rate``: step -> learning rate."""

    def __init__(self, theta: Tensor, rate: Callable[[int], float], constants: AdamConstants) -> None:
        self.theta = theta
        self.state = AdamState.zeros(theta.numel(), theta.device)
        self._rate, self._constants = rate, constants

    def local_step(self, gradient: Tensor, step: int) -> None:
        """One Adam step; ``gradient``: fp32 [a], only read."""
        local_step(self.theta, gradient, self.state, self._constants, self._rate(step))
