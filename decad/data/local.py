"""This machine's private data as batches, in an order that is a pure function of seed and epoch.

Plain text is packed: documents lie end to end, each followed by the end-of-text token, and are cut into sequences of
equal length; what is left at the end is dropped. Everything else keeps one record an example, filled up to the longest
of its batch. Some sequences or examples are held out for evaluation.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decad.core.batch import IGNORED, Batch
from decad.data.corpus import Corpus, Tokenised
from decad.data.order import permutation, visited
from decad.data.position import DataPosition
from decad.data.tokens import tokenise
from decad.errors import DataError


def data_seed(run_seed: int, name: str) -> int:
    """The seed of one peer's split and order: another for each name, the same at every start."""
    return int.from_bytes(hashlib.sha256(f"decad/data/{run_seed}/{name}".encode()).digest()[:4], "big")


class LocalData(ABC):
    """Numbered sequences or examples, split and shuffled."""

    corpus: Corpus
    """What the files hold."""

    def __init__(self, count: int, held_out: float, seed: int) -> None:
        """``held_out``: share of the ``count`` to keep aside, at least one; 0 keeps none."""
        self.held_out = min(max(round(held_out * count), 1), count - 1) if held_out else 0
        self.train_sequences = count - self.held_out
        self._seed = seed
        split = torch.from_numpy(permutation("held-out", seed, 0, count))
        # In the data's order, so that evaluation does not depend on the order of the split.
        self._held_out_rows = split[: self.held_out].sort().values
        self._train_rows = split[self.held_out :]

    def batch(self, position: DataPosition, batch_size: int) -> tuple[Batch, DataPosition]:
        """The next ``batch_size`` sequences or examples to train on, and where to go on.

        Each epoch visits every one once, in an order of its own; a batch may span two epochs.
        """
        end = position.consumed + batch_size
        places = visited(self._seed, self.train_sequences, position.consumed, end)
        return self.rows(self._train_rows[torch.from_numpy(places)]), DataPosition(end)

    def held_out_batches(self, batch_size: int, limit: int) -> Iterator[Batch]:
        """At most ``limit`` held-out batches of at most ``batch_size``; always the same."""
        for rows in torch.split(self._held_out_rows, batch_size)[:limit]:
            if len(rows):
                yield self.rows(rows)

    @abstractmethod
    def rows(self, rows: Tensor) -> Batch:
        """These sequences or examples, int64 [b], whatever they are for."""
        ...


class PackedData(LocalData):
    """Sequences of ``seq_len`` tokens, each of seq_len - 1 predictions."""

    def __init__(self, stream: Tensor, seq_len: int, held_out: float, seed: int) -> None:
        """Cut ``stream`` (int32 [tokens], only read). Raises DataError if it is too short."""
        count = stream.numel() // seq_len
        if count < 2:
            fits = stream.numel() // 2
            advice = f" or set --seq-len to {fits} or less" if fits >= 8 else ""
            raise DataError(
                f"the data has {stream.numel()} tokens, and two sequences of {seq_len} tokens (one to train "
                f"on, one to evaluate on) need {2 * seq_len}. Add text{advice}."
            )
        super().__init__(count, held_out, seed)
        self._sequences = stream[: count * seq_len].view(count, seq_len)

    def rows(self, rows: Tensor) -> Batch:
        return Batch.next_token(self._sequences[rows].to(torch.int64))


class ExampleData(LocalData):
    """Examples of different lengths, each with tokens that are to be predicted or with a class."""

    def __init__(self, data: Tokenised, padding: int, held_out: float, seed: int) -> None:
        count = data.ends.numel()
        if count < 2:
            raise DataError(
                "the data has one record, and two (one to train on, one to evaluate on) are needed. Add records."
            )
        super().__init__(count, held_out, seed)
        self._ids, self._trained, self._padding = data.ids, data.trained, padding
        self._ends, self._classes = data.ends, data.classes

    def rows(self, rows: Tensor) -> Batch:
        starts = torch.where(rows > 0, self._ends[rows - 1], 0)
        spans = [
            slice(start, end) for start, end in zip(starts.tolist(), self._ends[rows].tolist(), strict=True)
        ]
        tokens = _filled([self._ids[span] for span in spans], self._padding)
        real = _filled([torch.ones(span.stop - span.start) for span in spans], 0).bool()
        if self._trained is None:
            return Batch(tokens, self._classes[rows], None if bool(real.all()) else real)
        trained = _filled([self._trained[span] for span in spans], 0).bool()
        targets = torch.where(trained, tokens, IGNORED)
        # The last place of the longest predicts nothing.
        mask = real[:, :-1]
        return Batch(tokens[:, :-1], targets[:, 1:], None if bool(mask.all()) else mask)


def load_data(
    paths: Sequence[Path],
    tokenizer: Any,
    task: str,
    labels: Sequence[str],
    seq_len: int,
    held_out: float,
    seed: int,
    *,
    keep: Path | None = None,
    max_bad: float = 1.0,
    tell: Callable[[str], None] = lambda text: None,
) -> LocalData:
    """Read files and directories of them; see `tokens.tokenise` for ``keep``, ``max_bad`` and ``tell``.

    ``seed`` chooses what is held out and the order of training; it is this machine's own affair. Raises DataError.
    """
    data = tokenise(paths, tokenizer, task, labels, seq_len, keep=keep, max_bad=max_bad, tell=tell)
    return as_data(data, tokenizer, seq_len, held_out, seed)


def as_data(data: Tokenised, tokenizer: Any, seq_len: int, held_out: float, seed: int) -> LocalData:
    """``data`` cut into sequences or examples. Raises DataError."""
    made: LocalData
    if data.corpus.kind == "packed":
        made = PackedData(data.ids, seq_len, held_out, seed)
    else:
        made = ExampleData(data, tokenizer.pad_token_id, held_out, seed)
    made.corpus = data.corpus
    return made


def _filled(rows: Sequence[Tensor], value: int) -> Tensor:
    """int64 [b, longest]"""
    return torch.nn.utils.rnn.pad_sequence([row.to(torch.int64) for row in rows], True, value)
