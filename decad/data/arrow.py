"""Parquet and Arrow files and saved datasets -> records."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from decad.data.record import Record, bad_file
from decad.errors import first_line


def read_parquet(path: Path) -> Iterator[Record]:
    """A row a record, a row group's part at a time.

    By pyarrow itself: `datasets` takes a path for a pattern, in which brackets and stars mean something.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            yield from _numbered(
                path, (row for batch in file.iter_batches(1024) for row in batch.to_pylist())
            )
    except (pyarrow.ArrowException, ValueError) as error:
        yield _damaged(path, error)


def read_arrow(path: Path) -> Iterator[Record]:
    """A file as `datasets` caches it: a row a record."""
    try:
        rows = _datasets().Dataset.from_file(str(path))
    except ValueError as error:
        yield _damaged(path, error)
        return
    yield from _numbered(path, rows)


def read_saved(path: Path) -> Iterator[Record]:
    """What `save_to_disk` wrote: of several splits the one called train."""
    datasets = _datasets()
    try:
        loaded = datasets.load_from_disk(str(path.resolve()))
    except (ValueError, FileNotFoundError) as error:
        yield _damaged(path, error)
        return
    if isinstance(loaded, datasets.DatasetDict):
        if "train" not in loaded:
            splits = ", ".join(loaded)
            yield bad_file(
                path,
                f"it has the splits {splits} and none called train. Give the directory of the one to train on",
            )
            return
        loaded = loaded["train"]
    yield from _numbered(path, loaded)


def _numbered(path: Path, rows: Iterable[Mapping[str, Any]]) -> Iterator[Record]:
    for number, row in enumerate(rows, 1):
        yield Record(f"{path}, record {number}", row)


def _damaged(path: Path, error: Exception) -> Record:
    what = path.suffix or "a saved dataset"
    return bad_file(path, f"it cannot be read as {what}: {first_line(error)}. Copy it again")


def _datasets() -> Any:
    """Imported when a file needs it: it takes a second, and text needs none of it."""
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity_error()
    return datasets
