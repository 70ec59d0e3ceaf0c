"""Which example comes when: a pure function of seed and epoch, so that a peer can go on where it was."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from decad.core.keyed import keyed_bits, uint64


@lru_cache(maxsize=2)
def permutation(purpose: str, seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """0 to ``count`` - 1 in an order of its own for each ``purpose``, ``seed`` and ``epoch``; only to be read."""
    return np.argsort(uint64(keyed_bits(purpose, seed, epoch), count), kind="stable")


def places(seed: int, consumed: int, size: int, count: int) -> NDArray[np.int64]:
    """Numbers of the ``size`` examples after the first ``consumed``, int64 [size].

    Each epoch visits all ``count`` once; what is taken may span several.
    """
    taken, end = [], consumed + size
    while consumed < end:
        epoch, start = divmod(consumed, count)
        taken.append(permutation("epoch", seed, epoch, count)[start : start + end - consumed])
        consumed += len(taken[-1])
    return np.concatenate(taken)
