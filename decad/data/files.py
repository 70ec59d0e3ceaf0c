"""Text files on this machine, read whole. Their paths appear in local error messages and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from decad.errors import DataError


def text_files(paths: Sequence[Path]) -> list[Path]:
    """The files to read, each once: those named, and a directory's ``*.txt`` at any depth, sorted by path.

    Raises DataError for a path that does not exist and a directory without text files.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*.txt") if p.is_file())
            if not inside:
                raise DataError(
                    f"{path} holds no .txt files. Give --data a text file or a directory of them."
                )
        elif path.is_file():
            inside = [path]
        else:
            raise DataError(f"{path} does not exist. Give --data a text file or a directory of .txt files.")
        for file in inside:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def read_text(path: Path) -> str:
    """One document: the file's UTF-8 text without a byte order mark. Raises DataError."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text: byte {error.start} (0x{error.object[error.start]:02x}) fits no "
            "character. Convert it, for instance with `iconv -f LATIN1 -t UTF-8`, or leave it out."
        ) from None
    text = text.removeprefix("\ufeff")
    if not text:
        raise DataError(f"{path} is empty. Leave it out of --data, or write text into it.")
    return text
