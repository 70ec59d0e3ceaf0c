"""All domains' data in one numbering, and each peer's share of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decad.core.batch import Batch
from decad.data.corpus import Tokenised
from decad.data.local import LocalData, as_data
from decad.data.tokens import tokenise
from decad.errors import DataError


class Pool:
    """Sequences of packed text, or examples: numbered domain after domain, in the order of their files."""

    def __init__(
        self, domains: Sequence[Path], tokenizer: Any, task: str, labels: Sequence[str], seq_len: int
    ) -> None:
        """Read ``domains``. Raises DataError."""
        parts = [tokenise([path], tokenizer, task, labels, seq_len) for path in domains]
        counts = [part.units(seq_len) for part in parts]
        self.domains: NDArray[np.int64] = np.repeat(np.arange(len(parts)), counts)
        """Of each unit, the number of its domain."""
        joined = Tokenised.joined(parts, seq_len)
        self.classes: NDArray[np.int64] | None = None
        """Of each example, its class; None unless it has one."""
        if joined.corpus.kind == "classes":
            self.classes = joined.classes.numpy()
        self._all = as_data(joined, tokenizer, seq_len, 0.0, 0)

    def batch(self, units: Tensor) -> Batch:
        """These units, int64 [b], as a batch."""
        return self._all.rows(units)


class Share(LocalData):
    """Some of a pool's units as one peer's private data, split and ordered as the daemon would."""

    def __init__(self, pool: Pool, units: NDArray[np.int64], held_out: float, seed: int) -> None:
        """Raises DataError if there are fewer than two."""
        if len(units) < 2:
            raise DataError(
                f"A peer has {len(units)} sequences or examples. Use more data, fewer peers or a shorter seq_len."
            )
        super().__init__(len(units), held_out, seed)
        self._pool, self._units = pool, torch.from_numpy(units)

    def rows(self, rows: Tensor) -> Batch:
        return self._pool.batch(self._units[rows])

    @property
    def train_units(self) -> NDArray[np.int64]:
        """Numbers in the pool of what is trained on."""
        made: NDArray[np.int64] = self._units[self._train_rows].numpy()
        return made

    @property
    def held_out_units(self) -> NDArray[np.int64]:
        """Numbers in the pool of what is not."""
        made: NDArray[np.int64] = self._units[self._held_out_rows].numpy()
        return made
