"""What was made of the data files: token ids in files that are mapped into memory, and what was left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decad.errors import DataError

TOKENS, TARGETS, ENDS, CLASSES, INDEX = "tokens.bin", "targets.bin", "ends.bin", "classes.bin", "index.json"
KINDS = {"packed": "plain text", "examples": "conversations or completions", "classes": "labelled text"}
SAID = 5
"""Reasons for which records were left out that are told one by one."""


@dataclass
class Losses:
    """What was left out of the data."""

    records: int = 0
    bytes: int = 0
    """Of the files; of those that do not tell, by their records' share."""
    size: int = 0
    """Bytes of all files."""
    causes: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Reason, as a clause -> place of its first record, and how many there are: of the first `SAID` reasons."""

    @property
    def share(self) -> float:
        """Of the bytes."""
        return min(1.0, self.bytes / self.size) if self.size else 0.0

    def add(self, place: str, reason: str, size: int, records: int = 1) -> None:
        """``records`` that take ``size`` bytes were left out, the first of them at ``place``."""
        self.records += records
        self.bytes += size
        if reason in self.causes or len(self.causes) < SAID:
            first, before = self.causes.get(reason, (place, 0))
            self.causes[reason] = first, before + records

    def __str__(self) -> str:
        """``3 records (0.2 % of the bytes)``"""
        what = "1 record" if self.records == 1 else f"{self.records} records"
        return f"{what} ({percent(self.share)} of the bytes)"

    @property
    def listed(self) -> str:
        """``FILE, line 3: it is empty (and 4 more); FILE, line 8: it is not UTF-8; and 2 others``"""
        told = [
            f"{place}: {reason}" + (f" (and {count - 1} more)" if count > 1 else "")
            for reason, (place, count) in self.causes.items()
        ]
        others = self.records - sum(count for _, count in self.causes.values())
        return "; ".join([*told, *([f"and {others} others"] if others else [])])


def percent(share: float) -> str:
    """``3.2 %``"""
    return "less than 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


@dataclass
class Corpus:
    """What the files hold."""

    kind: str
    """A key of `KINDS`."""
    tokens: int = 0
    """Ids in all."""
    records: int = 0
    """Those that are used."""
    cut: int = 0
    """Of them, those that are longer than a sequence and were cut."""
    templated: bool = False
    """Whether any of them is a conversation, which the model's chat template wrote."""
    losses: Losses = field(default_factory=Losses)

    def write(self, folder: Path) -> None:
        """Into ``folder``, as its index."""
        (folder / INDEX).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Corpus:
        read = json.loads((folder / INDEX).read_text())
        losses = Losses(**read.pop("losses"))
        losses.causes = {reason: (place, count) for reason, (place, count) in losses.causes.items()}
        return cls(**read, losses=losses)


@dataclass(frozen=True)
class Tokenised:
    """A `Corpus` and its token ids, never written to."""

    corpus: Corpus
    ids: Tensor
    """int32 [tokens]"""
    trained: Tensor | None
    """int32 [tokens]: whether each is to be predicted; None where all are, or where classes are."""
    ends: Tensor
    """int64 [examples], where each ends; empty for packed text."""
    classes: Tensor
    """int64 [examples]; empty unless that is what is predicted."""

    @classmethod
    def read(cls, folder: Path) -> Tokenised:
        """Map what was written into memory."""
        corpus = Corpus.read(folder)
        trained = _mapped(folder / TARGETS, np.int32) if corpus.kind == "examples" else None
        ends, classes = _mapped(folder / ENDS, np.int64), _mapped(folder / CLASSES, np.int64)
        return cls(corpus, _mapped(folder / TOKENS, np.int32), trained, ends, classes)

    def units(self, seq_len: int) -> int:
        """Whole sequences of packed text, or examples."""
        return self.corpus.tokens // seq_len if self.corpus.kind == "packed" else self.ends.numel()

    @classmethod
    def joined(cls, parts: Sequence[Tokenised], seq_len: int) -> Tokenised:
        """``parts``, of one kind, end to end in memory; what is no whole sequence is left out of packed text."""
        kinds = {part.corpus.kind for part in parts}
        if len(kinds) > 1:
            raise DataError(f"{' and '.join(sorted(map(KINDS.__getitem__, kinds)))} cannot be one data set.")
        lengths = [
            part.units(seq_len) * seq_len if part.corpus.kind == "packed" else part.corpus.tokens
            for part in parts
        ]
        starts = [sum(lengths[:place]) for place in range(len(parts))]
        trained = [part.trained for part in parts if part.trained is not None]
        corpora = [part.corpus for part in parts]
        return cls(
            Corpus(kinds.pop(), sum(lengths), sum(c.records for c in corpora), sum(c.cut for c in corpora)),
            torch.cat([part.ids[:length] for part, length in zip(parts, lengths, strict=True)]),
            torch.cat(trained) if trained else None,
            torch.cat([part.ends + start for part, start in zip(parts, starts, strict=True)]),
            torch.cat([part.classes for part in parts]),
        )


def _mapped(path: Path, dtype: type[np.integer[Any]]) -> Tensor:
    if not path.stat().st_size:
        return torch.from_numpy(np.empty(0, dtype))
    # Copy on write, since torch wants to be able to write; nobody does.
    return torch.from_numpy(np.memmap(path, dtype=dtype, mode="c"))
