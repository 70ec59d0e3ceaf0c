"""All records of the data as token ids in a file that is mapped into memory: data may be larger than memory.

    STATE_DIR/tokens/<key>/tokens.bin   int32, record after record
    STATE_DIR/tokens/<key>/targets.bin  int32, which of them are to be predicted (1, 0); not for packed text and classes
    STATE_DIR/tokens/<key>/ends.bin     int64, where each example ends among the tokens; not for packed text
    STATE_DIR/tokens/<key>/classes.bin  int64, the examples' classes, if that is what they have
    STATE_DIR/tokens/<key>/index.json   how many of what

They are written once and read again at the next start, as long as data, tokenizer and settings are the same.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import re
import shutil
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decad.data.examples import BadRecordError, Encode, Example, encoder, text_tokens
from decad.data.files import data_files, size_of
from decad.data.records import Record, read_records
from decad.errors import DataError

log = logging.getLogger("decad")

FOLDER = "tokens"
TOKENS, TARGETS, ENDS, CLASSES, INDEX = "tokens.bin", "targets.bin", "ends.bin", "classes.bin", "index.json"
UNFINISHED = "unfinished-"
SAID = 5
"""Bad records that are reported one by one."""
TELL_S = 10.0
FORMAT = 1


@dataclass
class Corpus:
    """What the files hold."""

    kind: str
    """packed | examples | classes"""
    tokens: int = 0
    """Ids in all."""
    records: int = 0
    skipped: int = 0
    """Bad records, left out."""
    cut: int = 0
    """Records that are longer than a sequence and were cut."""


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
        """Map what `tokenise` wrote into memory."""
        corpus = Corpus(**json.loads((folder / INDEX).read_text())["corpus"])
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
            raise DataError(f"{' and '.join(sorted(map(_KINDS.__getitem__, kinds)))} cannot be one data set.")
        lengths = [
            part.units(seq_len) * seq_len if part.corpus.kind == "packed" else part.corpus.tokens
            for part in parts
        ]
        starts = [sum(lengths[:place]) for place in range(len(parts))]
        trained = [part.trained for part in parts if part.trained is not None]
        return cls(
            Corpus(
                kinds.pop(), sum(lengths), *(sum(counts) for counts in zip(*map(_counts, parts), strict=True))
            ),
            torch.cat([part.ids[:length] for part, length in zip(parts, lengths, strict=True)]),
            torch.cat(trained) if trained else None,
            torch.cat([part.ends + start for part, start in zip(parts, starts, strict=True)]),
            torch.cat([part.classes for part in parts]),
        )


def tokenise(
    paths: Sequence[Path],
    tokenizer: Any,
    task: str,
    labels: Sequence[str],
    seq_len: int,
    *,
    keep: Path | None = None,
    strict: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Tokenised:
    """Read all files, once.

    ``seq_len``: where single examples are cut; ``keep``: the directory to keep the result in, else it is gone with this
    process; ``tell`` hears now and then how far it is. Raises DataError.
    """
    files = data_files(paths)
    key = _key(files, tokenizer, task, labels, seq_len)
    home = None if keep is None else keep / FOLDER
    try:
        if home is not None:
            _clear(home, key)
            if (home / key / INDEX).is_file():
                return Tokenised.read(home / key)
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=home) as name:
            folder = Path(name)
            with _Writer(folder, tokenizer, task, labels, seq_len, strict) as writer:
                _read_all(files, writer, tell)
            if home is None:
                return Tokenised.read(folder)  # mapped: the memory stays though the names go
            whole = folder.rename(home / key)
            folder.mkdir()  # for its own removal
            return Tokenised.read(whole)
    except DataError:
        if home is not None:
            with suppress(OSError):
                home.rmdir()  # a start that fails leaves nothing; it stays if something is in it
        raise
    except OSError as error:
        advice = "Check that directory."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            size = sum(map(size_of, files)) / 1e6
            advice = f"They take about as much room as the data, {size:.0f} MB. Free some there."
        raise DataError(
            f"The data's tokens could not be written to {home or tempfile.gettempdir()}: {error.strerror or error}. "
            f"{advice}"
        ) from None


def _clear(home: Path, key: str) -> None:
    """Make ``home``, and remove from it what earlier starts wrote, unless it is ``key``; nothing else."""
    home.mkdir(exist_ok=True)
    for path in home.iterdir():
        ours = path.name.startswith(UNFINISHED) or (_KEY.fullmatch(path.name) and (path / INDEX).is_file())
        if ours and path.name != key and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _read_all(files: Sequence[Path], writer: _Writer, tell: Callable[[str], None]) -> None:
    sizes = [size_of(path) for path in files]
    told, done = time.monotonic(), 0
    for path, size in zip(files, sizes, strict=True):
        for record in read_records(path):
            writer.add(record)
            if time.monotonic() - told > TELL_S:
                told = time.monotonic()
                read = (done + record.offset) / 1e6
                text = f"{writer.corpus.records} records, {read:.0f} MB of {sum(sizes) / 1e6:.0f} MB"
                log.info("reading the data: %s", text)
                tell(f"the data to be read ({text})")
        done += size
    writer.finish()


class _Writer:
    def __init__(
        self, folder: Path, tokenizer: Any, task: str, labels: Sequence[str], seq_len: int, strict: bool
    ) -> None:
        self._folder, self._tokenizer, self._task, self._labels = folder, tokenizer, task, labels
        self._seq_len, self._strict = seq_len, strict
        self._encoders: dict[tuple[str, ...], Encode | None] = {}
        self.corpus = Corpus("")
        self._last = ""
        """What was said of the last bad record."""

    def __enter__(self) -> _Writer:
        with ExitStack() as files:
            self._tokens, self._targets, self._ends, self._classes = (
                files.enter_context((self._folder / name).open("wb"))
                for name in (TOKENS, TARGETS, ENDS, CLASSES)
            )
            self._files = files.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.close()

    def add(self, record: Record) -> None:
        """Raises DataError when it is bad and that is not allowed."""
        try:
            if record.wrong:
                raise BadRecordError(record.wrong)
            self._add(record)
        except BadRecordError as error:
            self._bad(record, str(error))

    def _add(self, record: Record) -> None:
        columns = tuple(record.columns)
        if columns not in self._encoders:
            self._encoders[columns] = encoder(record.columns, self._tokenizer, self._task, self._labels)
        encode = self._encoders[columns]
        example = None if encode is None else encode(record.columns)
        kind = "packed" if example is None else "classes" if example.trained is None else "examples"
        if self.corpus.kind not in ("", kind):
            raise BadRecordError(f"it is {_KINDS[kind]}, and what came before it {_KINDS[self.corpus.kind]}")
        if example is not None:
            self._example(example)
        else:
            for tokens in text_tokens(record.columns, self._tokenizer):
                self._write(tokens)
            if not record.goes_on:
                self._write([self._tokenizer.eos_token_id])
        self.corpus.kind = kind
        self.corpus.records += not record.goes_on

    def _example(self, example: Example) -> None:
        tokens, trained = example.tokens[: self._seq_len], (example.trained or [])[: self._seq_len]
        if example.trained is not None and not any(trained[1:]):
            raise BadRecordError(
                f"nothing of it that is to be learned is among its first {self._seq_len} tokens"
            )
        self.corpus.cut += len(example.tokens) > self._seq_len
        self._write(tokens)
        self._targets.write(array("i", trained).tobytes())
        self._ends.write(array("q", [self.corpus.tokens]).tobytes())
        if example.trained is None:
            self._classes.write(array("q", [example.label]).tobytes())

    def _write(self, tokens: Sequence[int]) -> None:
        self._tokens.write(array("i", tokens).tobytes())
        self.corpus.tokens += len(tokens)

    def _bad(self, record: Record, wrong: str) -> None:
        if self._strict:
            raise DataError(
                f"{record.place}: {wrong}. Mend it, or leave out --strict-data to go on without such records."
            )
        if record.goes_on:
            return  # its last piece will be as bad
        self.corpus.skipped += 1
        if self.corpus.skipped <= SAID:
            log.warning("%s: %s; left out", record.place, wrong)
        self._last = f"{record.place}: {wrong}"

    def finish(self) -> None:
        """Write the index. Raises DataError if there is nothing."""
        corpus = self.corpus
        if not corpus.records:
            if not corpus.skipped:
                raise DataError("There are no records in the data. Add some.")
            raise DataError(f"None of the {corpus.skipped} records can be used. The last: {self._last}.")
        if corpus.skipped:
            log.warning(
                "%d of %d records are bad and were left out", corpus.skipped, corpus.skipped + corpus.records
            )
        if corpus.cut:
            log.info("%d records are longer than %d tokens and were cut", corpus.cut, self._seq_len)
        (self._folder / INDEX).write_text(json.dumps({"corpus": asdict(corpus)}))


_KEY = re.compile(r"[0-9a-f]{16}")
_KINDS = {"packed": "plain text", "examples": "a conversation or completion", "classes": "labelled text"}


def _counts(data: Tokenised) -> tuple[int, int, int]:
    return data.corpus.records, data.corpus.skipped, data.corpus.cut


def _mapped(path: Path, dtype: type[np.integer[Any]]) -> Tensor:
    if not path.stat().st_size:
        return torch.from_numpy(np.empty(0, dtype))
    # Copy on write, since torch wants to be able to write; nobody does.
    return torch.from_numpy(np.memmap(path, dtype=dtype, mode="c"))


def _key(files: Sequence[Path], tokenizer: Any, task: str, labels: Sequence[str], seq_len: int) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    about = [
        FORMAT,
        [(str(path.resolve()), *_stamp(path)) for path in files],
        backend.to_str() if backend is not None else type(tokenizer).__name__,
        str(getattr(tokenizer, "chat_template", None)),
        [task, list(labels), seq_len],
    ]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def _stamp(path: Path) -> tuple[int, int]:
    newest = path if path.is_file() else max(path.rglob("*"), key=lambda p: p.stat().st_mtime_ns)
    return size_of(path), newest.stat().st_mtime_ns
