"""What every kind of data file gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from decad.data.files import size_of


class Record(NamedTuple):
    """Columns by name; or what is wrong with what stands there."""

    place: str
    """For people: file and line, or file and number."""
    columns: Mapping[str, Any]
    wrong: str = ""
    """As a clause."""
    goes_on: bool = False
    """The next one is more of the same text."""
    offset: int = 0
    """Bytes of the file that are read so far; 0 where nobody knows."""
    size: int = 0
    """Bytes of the file that it takes; 0 where only the number of records is known."""


def bad_file(path: Path, wrong: str) -> Record:
    """The one record of a file of which nothing can be used."""
    try:
        size = size_of(path)
    except OSError:
        size = 0
    return Record(str(path), {}, wrong, size=size)
