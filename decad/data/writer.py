"""Records -> files of token ids, one set for each kind of record, of which the kind that has most is kept."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from decad.data.corpus import CLASSES, ENDS, KINDS, TARGETS, TOKENS, Corpus, Losses
from decad.data.examples import BadRecordError, Encode, Example, Messages, encoder, text_tokens
from decad.data.record import Record
from decad.errors import DataError

log = logging.getLogger("decad")


class _Kind:
    """The files of one kind of record, in a directory of their own."""

    def __init__(self, folder: Path, kind: str) -> None:
        folder.mkdir(mode=0o700)
        self.folder, self.corpus = folder, Corpus(kind)
        self.first = ""
        """Place of the first record."""
        self.bytes = 0
        """Of the files, that its records take."""
        with ExitStack() as files:
            self._tokens, self._targets, self._ends, self._classes = (
                files.enter_context((folder / name).open("wb")) for name in (TOKENS, TARGETS, ENDS, CLASSES)
            )
            self._files = files.pop_all()

    def close(self) -> None:
        self._files.close()

    def write(self, tokens: Sequence[int]) -> None:
        self._tokens.write(array("i", tokens).tobytes())
        self.corpus.tokens += len(tokens)

    def example(self, example: Example, seq_len: int) -> None:
        """Cut to ``seq_len``."""
        self.corpus.cut += len(example.tokens) > seq_len
        self.write(example.tokens[:seq_len])
        self._targets.write(array("i", (example.trained or [])[:seq_len]).tobytes())
        self._ends.write(array("q", [self.corpus.tokens]).tobytes())
        if example.trained is None:
            self._classes.write(array("q", [example.label]).tobytes())


class Writer:
    """``seq_len``: where examples are cut."""

    def __init__(self, folder: Path, tokenizer: Any, task: str, labels: Sequence[str], seq_len: int) -> None:
        self._folder, self._tokenizer, self._task, self._labels = folder, tokenizer, task, labels
        self._seq_len = seq_len
        self._encoders: dict[tuple[str, ...], Encode | None] = {}
        self._kinds: dict[str, _Kind] = {}
        self._losses = Losses()
        self._file = Losses()
        """Of this file, those whose bytes nobody knows."""
        self._in_file: dict[_Kind, int] = {}
        """Records of this file whose bytes nobody knows."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._kinds.values():
            each.close()

    @property
    def records(self) -> int:
        """Those that can be used, so far."""
        return sum(kind.corpus.records for kind in self._kinds.values())

    def add(self, record: Record) -> None:
        """Write its tokens; a bad one is counted."""
        try:
            if record.wrong:
                raise BadRecordError(record.wrong)
            self._add(record)
        except BadRecordError as error:
            self._losses.add(record.place, str(error), record.size)
            self._file.records += not record.size

    def end_file(self, size: int) -> None:
        """What has no bytes of its own has its part of the file's ``size``."""
        self._losses.size += size
        unknown = self._file.records + sum(self._in_file.values())
        if unknown:
            self._losses.bytes += size * self._file.records // unknown
        for kind, records in self._in_file.items():
            kind.bytes += size * records // unknown
        self._file, self._in_file = Losses(), {}

    def _add(self, record: Record) -> None:
        # What is null is not there: files that were put together from two kinds name the columns of both.
        there = {name: value for name, value in record.columns.items() if value is not None}
        if "completion" in there and "prompt" in record.columns:
            there.setdefault("prompt", "")
        named = tuple(there)
        if named not in self._encoders:
            self._encoders[named] = encoder(named, self._tokenizer, self._task, self._labels)
        encode = self._encoders[named]
        example = None if encode is None else encode(there)
        if (
            example is not None
            and example.trained is not None
            and not any(example.trained[1 : self._seq_len])
        ):
            raise BadRecordError(
                f"nothing of it that is to be learned is among its first {self._seq_len} tokens"
            )
        kind = self._kind(
            "packed" if example is None else "classes" if example.trained is None else "examples"
        )
        if example is not None:
            kind.example(example, self._seq_len)
        else:
            for tokens in text_tokens(there, self._tokenizer):
                kind.write(tokens)
            if not record.goes_on:
                kind.write([self._tokenizer.eos_token_id])
        kind.first = kind.first or record.place
        kind.corpus.templated |= isinstance(encode, Messages)
        if not record.goes_on:
            kind.corpus.records += 1
            kind.bytes += record.size
            if not record.size:
                self._in_file[kind] = self._in_file.get(kind, 0) + 1

    def _kind(self, name: str) -> _Kind:
        if name not in self._kinds:
            self._kinds[name] = _Kind(self._folder / name, name)
        return self._kinds[name]

    def finish(self) -> Path:
        """Write the index of the kind that has most of the bytes; returns its directory.

        Raises DataError if there is nothing.
        """
        losses = self._losses
        kinds = sorted((k for k in self._kinds.values() if k.corpus.records), key=lambda k: k.bytes)
        if not kinds:
            if not losses.records:
                raise DataError("There are no records in the data. Add some.")
            none = (
                f"None of the {losses.records} records can"
                if losses.records > 1
                else "The only record cannot"
            )
            raise DataError(f"{none} be used: {losses.listed}.")
        kept = kinds.pop()
        for other in kinds:
            what = f"{KINDS[other.corpus.kind]}, and most of the data is {KINDS[kept.corpus.kind]}"
            losses.add(other.first, f"it is {what}", other.bytes, other.corpus.records)
        kept.corpus.losses = losses
        kept.corpus.write(kept.folder)
        return kept.folder
