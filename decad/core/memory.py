"""A tensor's memory as bytes, for the wire, the disk and hashes: as the machine has it, which is little-endian."""

from __future__ import annotations

import torch
from torch import Tensor


def bytes_of(values: Tensor) -> memoryview:
    """The memory of a contiguous host tensor of any shape and dtype: writing to it writes to the tensor.

    Of a tensor on another device, a copy of it.
    """
    flat = values.detach().cpu().reshape(-1).view(torch.uint8).numpy()
    return flat.data
