"""Write-back of an fp32 master copy into bf16 weights (docs/protocol.md, "bf16 weights").

Nearest rounding would lose every update below half a bf16 step, which most are: bf16 keeps 8 bits. Stochastic
rounding keeps them on average, and noise that all peers share keeps equal masters equal.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from decad.core.keyed import keyed_bits, uint64

# Elements at a time (a multiple of 4, the noise words of one draw): bounds the temporaries to 16 MiB.
_AT_ONCE = 1 << 20


def round_stochastically(master: Tensor, out: Tensor, *, seed: int, step: int, block: int) -> None:
    """Write ``master`` (fp32 [n]) into ``out`` (bf16 [n], same device), rounding up or down at random.

    A value between two bf16 neighbours goes to either with a probability proportional to its closeness, so
    the expectation is the value itself. Element i's noise depends on (``seed``, ``step``, ``block``, i)
    alone. Values must be finite.
    """
    noise = keyed_bits("rounding", seed, step, block)
    for piece, target in zip(torch.split(master, _AT_ONCE), torch.split(out, _AT_ONCE), strict=True):
        words = uint64(noise, -(-piece.numel() // 4)).astype("<u8", copy=False).view("<u2")
        added = torch.from_numpy(words[: piece.numel()].astype(np.int32)).to(piece.device)
        # bf16 is the upper half of fp32: 16 random bits carry into it with probability lower half / 2^16. The
        # sign is a bit of its own, so this works on magnitudes for either sign.
        added += piece.view(torch.int32)
        added >>= 16
        target.view(torch.int16).copy_(added)
