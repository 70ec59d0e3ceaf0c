"""Data files -> records, one after the other, each with the place where it stands."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from decad.errors import DataError, first_line

# Characters handed to the tokenizer at once: it returns Python lists, at some 36 bytes a token.
PIECE = 1 << 20


class Record(NamedTuple):
    """Columns by name; or what is wrong with what stands there."""

    place: str
    """For people: file and line, or file and number."""
    columns: Mapping[str, Any]
    wrong: str = ""
    goes_on: bool = False
    """The next one is more of the same text."""
    offset: int = 0
    """Bytes of the file that are read so far; 0 where nobody knows."""


def read_records(path: Path) -> Iterator[Record]:
    """All records of a file, or of a saved dataset. A text file is one, which comes in pieces.

    Only a .json file that is a list is read whole. Raises DataError where nothing of the file can be read.
    """
    try:
        if path.is_dir():
            yield from _arrow(path, _saved(path))
        else:
            yield from _READERS[path.suffix.lower()](path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from None


def pieces(file: TextIO) -> Iterator[str]:
    """The text of ``file``, opened with ``newline="\\n"``, cut after line ends, and in lines longer than `PIECE`."""
    while piece := file.read(PIECE):
        yield piece + file.readline(PIECE)


def _text(path: Path) -> Iterator[Record]:
    place, last = str(path), ""
    with path.open("rb") as raw:
        file = TextIOWrapper(raw, encoding="utf-8-sig", newline="\n")
        try:
            for piece in pieces(file):
                if last:
                    yield Record(place, {"text": last}, goes_on=True, offset=raw.tell())
                last = piece
        except UnicodeDecodeError:
            wrong, byte = _first_wrong_byte(path)
            raise DataError(
                f"{path} is not UTF-8 text: byte {wrong} (0x{byte:02x}) fits no character. Convert it, for instance "
                "with `iconv -f LATIN1 -t UTF-8`, or leave it out."
            ) from None
        if not last:
            raise DataError(f"{path} is empty. Leave it out of --data, or write text into it.")
        yield Record(place, {"text": last}, offset=raw.tell())


def _first_wrong_byte(path: Path) -> tuple[int, int]:
    """Its offset and value; an error in text that is decoded as it is read counts from the last read."""
    decoder, done = getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as file:
        while True:
            chunk, held = file.read(PIECE), len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return done - held + error.start, error.object[error.start]
            done += len(chunk)


def _lines(path: Path) -> Iterator[Record]:
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            place = f"{path}, line {number}"
            offset += len(line)
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                yield _object(place, value, offset)
            except UnicodeDecodeError:
                yield Record(place, {}, "it is not UTF-8")
            except ValueError as error:
                yield Record(place, {}, f"it is not JSON ({error})")


def _json(path: Path) -> Iterator[Record]:
    """A list of objects, or lines of them under another name."""
    with path.open("rb") as file:
        listed = file.read(4096).decode("utf-8", "replace").lstrip("\ufeff \t\r\n").startswith("[")
    if not listed:
        yield from _lines(path)
        return
    try:
        records = json.loads(path.read_bytes().decode("utf-8-sig"))
    except ValueError as error:
        raise DataError(
            f"{path} is not JSON ({error}). Mend it, or write one object a line and call it .jsonl: then only the "
            "lines that are wrong are left out."
        ) from None
    for number, record in enumerate(records, 1):
        yield _object(f"{path}, record {number}", record)


def _object(place: str, value: Any, offset: int = 0) -> Record:
    if isinstance(value, dict):
        return Record(place, value, offset=offset)
    return Record(place, {}, "it is not an object with named columns")


def _csv(path: Path) -> Iterator[Record]:
    csv.field_size_limit(1 << 30)
    # A byte that is no character spoils its record alone.
    with path.open("rb") as raw:
        file = TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
        rows = csv.reader(file, strict=True)
        names = next(rows, None)
        if not names:
            raise DataError(
                f"{path} is empty. Leave it out of --data, or write a line of column names and rows."
            )
        while True:
            place = f"{path}, line {rows.line_num + 1}"
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield Record(place, {}, f"it is not CSV ({error})")
                continue
            if row is None:
                return
            if not row:
                continue
            if len(row) != len(names):
                yield Record(place, {}, f"it has {len(row)} columns and the first line names {len(names)}")
            elif any("\udc80" <= char <= "\udcff" for cell in row for char in cell):
                yield Record(place, {}, "it is not UTF-8")
            else:
                yield Record(place, dict(zip(names, row, strict=True)), offset=raw.tell())


def _parquet(path: Path) -> Iterator[Record]:
    datasets = _datasets()
    try:
        # Streamed, else datasets would copy the file into a cache of its own; it wants one all the same.
        with tempfile.TemporaryDirectory() as cache:
            options = {"split": "train", "streaming": True, "cache_dir": cache}
            yield from _arrow(path, datasets.load_dataset("parquet", data_files=str(path), **options))
    except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise _damaged(path, error) from None


def _arrow_file(path: Path) -> Iterator[Record]:
    try:
        rows = _datasets().Dataset.from_file(str(path))
    except ValueError as error:
        raise _damaged(path, error) from None
    yield from _arrow(path, rows)


def _saved(path: Path) -> Any:
    datasets = _datasets()
    try:
        loaded = datasets.load_from_disk(str(path))
    except (ValueError, FileNotFoundError) as error:
        raise _damaged(path, error) from None
    if isinstance(loaded, datasets.DatasetDict):
        if "train" not in loaded:
            raise DataError(
                f"{path} has the splits {', '.join(loaded)} and none called train. Give the directory of the one to "
                "train on."
            )
        return loaded["train"]
    return loaded


def _arrow(path: Path, rows: Iterable[Mapping[str, Any]]) -> Iterator[Record]:
    for number, row in enumerate(rows, 1):
        yield Record(f"{path}, record {number}", row)


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read as {path.suffix or 'a saved dataset'}: {first_line(error)}. Copy it again."
    )


def _datasets() -> Any:
    """Imported when a file needs it: it takes a second, and text needs none of it."""
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity_error()
    return datasets


_READERS = {
    ".txt": _text,
    ".jsonl": _lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow_file,
}
