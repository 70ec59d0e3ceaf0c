"""Text -> batches of token sequences, in an order that is a pure function of seed and epoch.

Documents are laid end to end, each followed by the end-of-text token, and cut into sequences of equal length;
what is left at the end is dropped. Some sequences are held out for evaluation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decad.core.batch import Batch
from decad.core.keyed import keyed_bits, uint64
from decad.data.files import read_text, text_files
from decad.data.position import DataPosition
from decad.errors import DataError

# Characters handed to the tokenizer at once: it returns Python lists, at some 36 bytes a token.
_PIECE = 1 << 20


def data_seed(run_seed: int, name: str) -> int:
    """The seed of one peer's split and order: another for each name, the same at every start."""
    return int.from_bytes(hashlib.sha256(f"decad/data/{run_seed}/{name}".encode()).digest()[:4], "big")


class Tokenizer(Protocol):
    """What this module needs of a Hugging Face tokenizer."""

    eos_token_id: int

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


class TextData:
    """This machine's private data: sequences of ``seq_len`` tokens, held in memory as int32."""

    tokens: int
    """Tokens of all documents with their end-of-text tokens, before cutting."""
    documents: int
    train_sequences: int
    """Sequences of one epoch."""
    held_out: int
    """Sequences kept aside for evaluation."""

    def __init__(self, stream: Tensor, documents: int, seq_len: int, held_out: float, seed: int) -> None:
        """Cut ``stream`` (int32 [tokens]); `load` is the usual way in. Raises DataError if too short."""
        count = stream.numel() // seq_len
        if count < 2:
            fits = stream.numel() // 2
            advice = f" or set --seq-len to {fits} or less" if fits >= 8 else ""
            raise DataError(
                f"the data has {stream.numel()} tokens, and two sequences of {seq_len} tokens (one to train "
                f"on, one to evaluate on) need {2 * seq_len}. Add text{advice}."
            )
        self.tokens = stream.numel()
        self.documents = documents
        self.held_out = min(max(round(held_out * count), 1), count - 1) if held_out else 0
        self.train_sequences = count - self.held_out
        self._seed = seed
        self._sequences = stream[: count * seq_len].view(count, seq_len)
        split = torch.from_numpy(_permutation("held-out", seed, 0, count))
        # In document order, so that evaluation does not depend on the order of the split.
        self._held_out_rows = split[: self.held_out].sort().values
        self._train_rows = split[self.held_out :]

    @classmethod
    def load(
        cls, paths: Sequence[Path], tokenizer: Tokenizer, seq_len: int, held_out: float, seed: int
    ) -> TextData:
        """Read text files and directories of ``*.txt``.

        ``held_out``: share of the sequences to keep aside, at least one; 0 keeps none. ``seed`` chooses them
        and the order of training; it is this machine's own affair. Raises DataError.
        """
        documents = [_tokens(read_text(path), tokenizer) for path in text_files(paths)]
        return cls(torch.cat(documents), len(documents), seq_len, held_out, seed)

    def batch(self, position: DataPosition, batch_size: int) -> tuple[Batch, DataPosition]:
        """The next ``batch_size`` training sequences, each of seq_len - 1 predictions, and where to go on.

        Each epoch visits every sequence once, in an order of its own; a batch may span two epochs.
        """
        rows = []
        consumed, end = position.consumed, position.consumed + batch_size
        while consumed < end:
            epoch, start = divmod(consumed, self.train_sequences)
            order = _permutation("epoch", self._seed, epoch, self.train_sequences)
            places = order[start : start + end - consumed]
            rows.append(self._train_rows[torch.from_numpy(places)])
            consumed += len(places)
        return self._batch(torch.cat(rows)), DataPosition(end)

    def held_out_batches(self, batch_size: int, limit: int) -> Iterator[Batch]:
        """At most ``limit`` held-out batches of at most ``batch_size`` sequences; always the same."""
        for rows in torch.split(self._held_out_rows, batch_size)[:limit]:
            yield self._batch(rows)

    def _batch(self, rows: Tensor) -> Batch:
        return Batch.next_token(self._sequences[rows].to(torch.int64))


@lru_cache(maxsize=2)
def _permutation(purpose: str, seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.argsort(uint64(keyed_bits(purpose, seed, epoch), count), kind="stable")


def _tokens(text: str, tokenizer: Tokenizer) -> Tensor:
    pieces = [
        torch.tensor(tokenizer.encode(piece, add_special_tokens=False), dtype=torch.int32)
        for piece in _pieces(text)
    ]
    return torch.cat([*pieces, torch.tensor([tokenizer.eos_token_id], dtype=torch.int32)])


def _pieces(text: str) -> Iterator[str]:
    """``text`` in pieces of at least `_PIECE` characters (but for the last), cut after line ends."""
    start = 0
    while start < len(text):
        line_end = text.find("\n", start + _PIECE)
        end = len(text) if line_end < 0 else line_end + 1
        yield text[start:end]
        start = end
