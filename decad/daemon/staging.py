"""Host copies of what travels, for models that live on another device.

On the CPU the tensors themselves are sent and accumulated into: no copy. On CUDA the block is copied to and
from pinned buffers on a side stream; on MPS by plain copies. Runs on the compute thread.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from decad.core.section import Section


class Staging:
    """Pinned buffers for one phase's block; ``sizes`` in fp32 elements."""

    def __init__(self, device: torch.device, sizes: Mapping[Section, int]) -> None:
        self.device = device
        self._sizes = dict(sizes)
        self._out: dict[Section, Tensor] = {}
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._out = {s: torch.empty(n, pin_memory=True) for s, n in sizes.items()}
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has no annotation

    def to_host(self, values: Mapping[Section, Tensor]) -> dict[Section, Tensor]:
        """The values as fp32 host tensors: themselves on the CPU, copies elsewhere."""
        if self.device.type == "cpu":
            return dict(values)
        if self._stream is None:
            return {s: v.cpu() for s, v in values.items()}
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            for section, value in values.items():
                self._out[section].copy_(value, non_blocking=True)
        self._stream.synchronize()
        return dict(self._out)

    def accumulators(self, gradient: Tensor) -> dict[Section, Tensor]:
        """Zeroed host accumulators; on the CPU the gradient's buffer, done with by now, serves for the block."""
        made: dict[Section, Tensor] = {}
        for section, size in self._sizes.items():
            if section is Section.BLOCK and self.device.type == "cpu":
                made[section] = gradient.zero_()
            else:
                made[section] = torch.zeros(size, pin_memory=self._stream is not None)
        return made

    def to_device(self, values: Mapping[Section, Tensor]) -> dict[Section, Tensor]:
        """Back to the device of the model."""
        if self.device.type == "cpu":
            return dict(values)
        return {s: v.to(self.device, non_blocking=self._stream is not None) for s, v in values.items()}
