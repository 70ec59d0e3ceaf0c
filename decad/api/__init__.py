"""decad as a library: a peer inside one's own program, and block-wise Adam alone (docs/how-to/library.md)."""

from decad.api.block_adam import BlockAdam

__all__ = ["BlockAdam"]
