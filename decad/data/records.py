"""Data files -> records, one after the other, each with the place where it stands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from decad.data.arrow import read_arrow, read_parquet, read_saved
from decad.data.encoding import PIECE, encoding_of, is_spoilt, text_of, why_not_text
from decad.data.record import Record, bad_file
from decad.data.table import read_csv


def read_records(path: Path) -> Iterator[Record]:
    """All records of a file, or of a saved dataset; a file of which nothing can be read is one bad record.

    A text file is one record, which comes in pieces. Only a .json file that is a list is read whole.
    """
    try:
        if path.is_dir():
            yield from read_saved(path)
        else:
            yield from _READERS[path.suffix.lower()](path)
    except OSError as error:
        yield bad_file(path, f"it cannot be read: {error.strerror or error}")


def pieces(file: TextIO) -> Iterator[str]:
    """The text of ``file``, opened with ``newline="\\n"``, cut after line ends, and in lines longer than `PIECE`."""
    while piece := file.read(PIECE):
        yield piece + file.readline(PIECE)


def _text(path: Path) -> Iterator[Record]:
    place, last, encoding = str(path), "", encoding_of(path)
    if wrong := why_not_text(path, encoding):  # before its first piece is taken for good
        yield bad_file(path, wrong)
        return
    with path.open("rb") as raw, text_of(raw, encoding, "\n") as file:
        for piece in pieces(file):
            if last:
                yield Record(place, {"text": last}, goes_on=True, offset=raw.tell())
            last = piece
        if last:
            yield Record(place, {"text": last}, offset=raw.tell(), size=path.stat().st_size)
        else:
            yield bad_file(path, "it is empty")


def _lines(path: Path) -> Iterator[Record]:
    with path.open("rb") as raw, text_of(raw, encoding_of(path), "\n", spoilt=True) as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _line(f"{path}, line {number}", line, raw.tell())
        except UnicodeError as error:
            yield bad_file(path, f"it is not text any more near byte {raw.tell()} ({error})")


def _line(place: str, line: str, offset: int) -> Record:
    size = len(line.encode("utf-8", "surrogateescape"))
    if is_spoilt(line):
        return Record(place, {}, "it is not UTF-8", offset=offset, size=size)
    try:
        return _object(place, json.loads(line.rstrip("\r\n")), offset, size)
    except (ValueError, RecursionError) as error:
        return Record(place, {}, f"it is not JSON ({error})", offset=offset, size=size)


def _json(path: Path) -> Iterator[Record]:
    """A list of objects, or lines of them under another name."""
    with path.open("rb") as raw, text_of(raw, encoding_of(path), "\n", spoilt=True) as file:
        listed = file.read(4096).lstrip().startswith("[")
    if not listed:
        yield from _lines(path)
        return
    try:
        records = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        yield bad_file(
            path,
            f"it is not JSON ({error}). Write one object a line and call it .jsonl: then only the lines that are wrong "
            "are left out",
        )
        return
    for number, record in enumerate(records, 1):
        yield _object(f"{path}, record {number}", record)


def _object(place: str, value: Any, offset: int = 0, size: int = 0) -> Record:
    if isinstance(value, dict):
        return Record(place, value, offset=offset, size=size)
    return Record(place, {}, "it is not an object with named columns", offset=offset, size=size)


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".txt": _text,
    ".jsonl": _lines,
    ".json": _json,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
