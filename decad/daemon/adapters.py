"""The adapters of one peer: trained in every step beside the active block, with moments that live through the run."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from decad.core.adam import AdamState, local_step
from decad.core.chebyshev import accelerate, relaxation
from decad.core.constants import AdamConstants
from decad.state.checkpoint import AdapterState


class Adapters:
    """``theta``: their values, fp32 [a], which the model uses; ``rate``: step -> learning rate."""

    def __init__(
        self,
        theta: Tensor,
        rate: Callable[[int], float],
        constants: AdamConstants,
        resumed: AdapterState | None = None,
    ) -> None:
        """``resumed`` restores the moments that `saved` gave; the values are the model's already."""
        self.theta = theta
        self.state = AdamState.zeros(theta.numel(), theta.device)
        self._rate, self._constants = rate, constants
        self._passes = -1
        """The last of `mix_still`."""
        if resumed is not None:
            self.state.updates = resumed.updates
            self.state.m.copy_(resumed.tensors["m"])
            self.state.v.copy_(resumed.tensors["v"])

    def local_step(self, gradient: Tensor, step: int) -> None:
        """One Adam step; ``gradient``: fp32 [a], only read."""
        local_step(self.theta, gradient, self.state, self._constants, self._rate(step))

    def mix_still(self, d: Tensor, passes: int, rho: float) -> None:
        """Mix without training, ``passes`` times before in this run: the first moment is where they were then."""
        if passes == 0 or passes != self._passes + 1:  # also who has just come
            self.state.m.copy_(self.theta)
            accelerate(self.theta, d, self.state.m, 1.0)
        else:
            accelerate(self.theta, d, self.state.m, relaxation(passes, rho))
        self._passes = passes

    def saved(self, block: int, phase: int) -> AdapterState:
        """A copy for a checkpoint; between steps only. ``block``: their index; ``phase``: of the last step."""
        live = {"block": self.theta, "m": self.state.m, "v": self.state.v}
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in live.items()}
        return AdapterState(block, phase, self.state.updates, copies)
