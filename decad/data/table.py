"""CSV -> records (RFC 4180), in which one stray quote costs the row that has it, and not all that follow."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from decad.data.encoding import encoding_of, is_spoilt, text_of
from decad.data.record import Record, bad_file

LONGEST_CELL = 1 << 24
"""Characters: a quote that is never closed is looked after so far, once for each row that has one."""


class _Lines:
    """The lines of a file, of which those of one row can be given back."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._ahead = file, deque[str]()
        self.row: list[str] = []
        """Lines that the row took so far."""
        self.number = 1
        """Of the row's first line."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._ahead.popleft() if self._ahead else next(self._file)
        self.row.append(line)
        return line

    def begin_row(self) -> None:
        self.number += len(self.row)
        self.row = []

    def keep_first(self) -> None:
        """The row was its first line alone; the others are read again."""
        self._ahead.extendleft(reversed(self.row[1:]))
        self.row = self.row[:1]


def read_csv(path: Path) -> Iterator[Record]:
    """A row a record; an empty cell is null. Of a bad row of several lines only the first is bad."""
    csv.field_size_limit(LONGEST_CELL)
    # A byte that is no character spoils its record alone.
    with path.open("rb") as raw, text_of(raw, encoding_of(path), "", spoilt=True) as file:
        lines = _Lines(file)
        rows = csv.reader(lines, strict=True)
        try:
            names = next(rows, None)
        except csv.Error as error:
            yield bad_file(path, f"its first line names no columns ({error})")
            return
        if not names:
            yield bad_file(path, "it is empty: there is no line of column names")
            return
        while True:
            lines.begin_row()
            wrong, row = "", list[str]()
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                wrong = f"it is not CSV ({error})"
            if not row and not wrong:
                continue
            if not wrong and len(row) != len(names):
                wrong = f"it has {len(row)} columns and the first line names {len(names)}"
            if wrong:
                lines.keep_first()
            elif any(map(is_spoilt, row)):
                wrong = "it is not UTF-8"
            size = sum(len(line.encode("utf-8", "surrogateescape")) for line in lines.row)
            columns = {} if wrong else {n: cell or None for n, cell in zip(names, row, strict=True)}
            yield Record(f"{path}, line {lines.number}", columns, wrong, offset=raw.tell(), size=size)
