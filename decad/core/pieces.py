"""Long vectors in pieces, so that temporaries stay in the cache and never reach the size of a block."""

from __future__ import annotations

from collections.abc import Iterator

PIECE = 1 << 17
"""Elements of one piece: 512 KiB of fp32, the fastest of 2^15 ... 2^22 for the Adam step on one x86 core."""


def pieces(numel: int, size: int = PIECE) -> Iterator[slice]:
    """Slices of ``size`` elements (the last may be shorter) that cover ``numel`` elements in order."""
    for start in range(0, numel, size):
        yield slice(start, min(start + size, numel))
