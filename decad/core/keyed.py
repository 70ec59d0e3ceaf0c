"""Random bits that are a pure function of a key: equal on every machine, in every version.

numpy promises that the raw stream of a bit generator never changes; torch promises no such thing of its
generators, and neither library does of its permutations and distributions.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray


def keyed_bits(*key: str | int) -> np.random.Philox:
    """A fresh stream of random bits for ``key``; different keys give independent streams."""
    digest = hashlib.sha256(json.dumps(["decad", *key]).encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))


def uint64(bits: np.random.Philox, count: int) -> NDArray[np.uint64]:
    """The next ``count`` words of the stream, [count]."""
    words: NDArray[np.uint64] = bits.random_raw(count)
    return words
