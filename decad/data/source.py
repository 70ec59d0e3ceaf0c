"""Where batches come from: this machine's files, or a program of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from decad.core.batch import Examples
from decad.data.position import DataPosition


class Source(Protocol):
    """Private data in an order of its own. Used on the compute thread alone."""

    def batch(self, position: DataPosition, batch_size: int) -> tuple[Examples, DataPosition]:
        """The next ``batch_size`` examples to train on, and where to go on."""
        ...

    def held_out_batches(self, batch_size: int, limit: int) -> Iterator[Examples]:
        """At most ``limit`` batches to evaluate on, always the same; none if nothing is held out."""
        ...
