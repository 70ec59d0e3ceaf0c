"""Files that survive a crash: what is written is on the disk before anything refers to it.

Every call here maps to a few system calls in a fixed order; `OSError` passes through to the caller.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

PIECE_BYTES = 64 << 20
"""Bytes of one write(2), which takes less than 2 GiB."""


def write_file(path: Path, pieces: Iterable[bytes | memoryview]) -> str:
    """Create or overwrite ``path``, write ``pieces`` and force them to the disk. Returns SHA-256 (hex).

    Readable by the owner alone: a fine-tuned model tells something of the private data behind it.
    The name itself is durable only after `sync_directory`.
    """
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        for piece in pieces:
            left = memoryview(piece).cast("B")
            digest.update(left)
            while left:
                left = left[os.write(descriptor, left[:PIECE_BYTES]) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_directory(path: Path) -> None:
    """Force the names in a directory to the disk: renames before it survive a power cut, in any order."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create a directory and its missing parents, for the owner alone, durably."""
    if path.is_dir():
        return
    make_directory(path.parent)
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    sync_directory(path.parent)
