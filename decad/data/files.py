"""Data files on this machine. Their paths appear in local error messages and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from decad.errors import DataError

SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".parquet", ".arrow")
SAVED = "dataset_info.json"
"""In a directory that datasets' ``save_to_disk`` wrote."""


def data_files(paths: Sequence[Path]) -> list[Path]:
    """What to read, each once: files named; of a directory, those with `SUFFIXES` at any depth, sorted by path.

    Hidden files and directories in it are passed over (macOS leaves `._` beside every file on foreign disks), and a
    directory that links lead back to is entered once.

    A directory that `save_to_disk` wrote, named or found, stands for itself. Raises DataError for a path that does not
    exist, a file of another kind, and a directory without data.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            inside = [path] if _is_saved(path) else _readable(path)
            if not inside:
                raise DataError(
                    f"{path} holds no data files ({', '.join(SUFFIXES)}). Give --data files of these kinds, or "
                    "directories of them."
                )
        elif path.is_file():
            if path.suffix.lower() not in SUFFIXES:
                raise DataError(
                    f"{path} is of no kind that decad reads ({', '.join(SUFFIXES)}). Rename it if it is one of them, "
                    "or convert it."
                )
            inside = [path]
        else:
            raise DataError(f"{path} does not exist. Give --data a file or a directory of files.")
        for file in inside:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def size_of(path: Path) -> int:
    """Bytes of a file, or of a saved dataset's files."""
    return (
        path.stat().st_size
        if path.is_file()
        else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    )


def _readable(directory: Path) -> list[Path]:
    try:
        return _inside(directory, set())
    except OSError as error:
        raise DataError(
            f"{error.filename or directory} cannot be read: {error.strerror}. Check its permissions."
        ) from None


def _is_saved(path: Path) -> bool:
    return (path / SAVED).is_file() or (path / "dataset_dict.json").is_file()


def _inside(directory: Path, entered: set[Path]) -> list[Path]:
    here = directory.resolve()
    if here in entered:
        return []
    entered.add(here)
    found = []
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            found += [path] if _is_saved(path) else _inside(path, entered)
        elif path.is_file() and path.suffix.lower() in SUFFIXES:
            found.append(path)
    return sorted(found)
