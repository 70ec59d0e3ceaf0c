"""The order in which numbered examples are visited: a pure function of seed and epoch, the same on every machine."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from decad.core.keyed import keyed_bits, uint64


@lru_cache(maxsize=2)
def permutation(purpose: str, seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The numbers below ``count``, shuffled: another order for each ``purpose``, ``seed`` and ``epoch``. Only to be
    read."""
    return np.argsort(uint64(keyed_bits(purpose, seed, epoch), count), kind="stable")


def visited(seed: int, count: int, start: int, stop: int) -> NDArray[np.int64]:
    """Numbers below ``count`` of the examples from the ``start``-th to before the ``stop``-th since the run began.

    Each epoch visits every one once, in an order of its own, and follows the one before without a gap.
    """
    parts = []
    while start < stop:
        epoch, begin = divmod(start, count)
        parts.append(permutation("epoch", seed, epoch, count)[begin : begin + stop - start])
        start += len(parts[-1])
    return np.concatenate(parts)
