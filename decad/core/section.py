"""What a message about a block is made of: the block itself, and the moments that the moment rule exchanges."""

from __future__ import annotations

from enum import IntEnum


class Section(IntEnum):
    """What a chunk belongs to; numbered as in peer.proto, and sent in this order."""

    BLOCK = 0
    """The parameters."""
    FIRST = 1
    """The first moment."""
    SECOND = 2
    """The second moment or its row means."""
    ADAPTERS = 3
    """The low-rank adapters, which are trained in every step beside the block."""
