"""All records of the data as token ids in a file that is mapped into memory: data may be larger than memory.

    STATE_DIR/tokens/<key>/tokens.bin   int32, record after record
    STATE_DIR/tokens/<key>/targets.bin  int32, which of them are to be predicted (1, 0); not for packed text and classes
    STATE_DIR/tokens/<key>/ends.bin     int64, where each example ends among the tokens; not for packed text
    STATE_DIR/tokens/<key>/classes.bin  int64, the examples' classes, if that is what they have
    STATE_DIR/tokens/<key>/index.json   how many of what

They are written once and read again at the next start, as long as all on which they depend is the same; others go.
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from decad.data.corpus import INDEX, Corpus, Tokenised, percent
from decad.data.files import data_files, size_of
from decad.data.fingerprint import fingerprint_of
from decad.data.records import read_records
from decad.data.writer import Writer
from decad.errors import DataError

log = logging.getLogger("decad")

FOLDER = "tokens"
UNFINISHED = "unfinished-"
TELL_S = 10.0
FORMAT = 2
"""Of the files, and of how records are read and written as tokens: to be raised when either changes."""


def tokenise(
    paths: Sequence[Path],
    tokenizer: Any,
    task: str,
    labels: Sequence[str],
    seq_len: int,
    *,
    keep: Path | None = None,
    max_bad: float = 1.0,
    tell: Callable[[str], None] = lambda text: None,
) -> Tokenised:
    """Read all files, once.

    ``seq_len``: where single examples are cut; ``keep``: the directory to keep the result in, else it is gone with this
    process; ``max_bad``: the share of the bytes that may be left out; ``tell`` hears now and then how far it is. Raises
    DataError.
    """
    data = _tokenised(data_files(paths), tokenizer, task, labels, seq_len, keep, tell)
    _check(data.corpus, seq_len, max_bad)
    return data


def _check(corpus: Corpus, seq_len: int, max_bad: float) -> None:
    losses = corpus.losses
    if losses.records and (losses.share > max_bad or not max_bad):
        allowed = f"more than the {percent(max_bad)} that --max-bad allows" if max_bad else "--max-bad is 0"
        raise DataError(
            f"{losses} of the data cannot be used, {allowed}: {losses.listed}. Mend them; or, to train without them, "
            f"start with --max-bad {min(1.0, losses.share + 0.01):.2f}."
        )
    if losses.records:
        log.warning("left out %s that cannot be used: %s", losses, losses.listed)
    if corpus.cut:
        log.info("%d records are longer than %d tokens and were cut", corpus.cut, seq_len)


def _tokenised(
    files: Sequence[Path],
    tokenizer: Any,
    task: str,
    labels: Sequence[str],
    seq_len: int,
    keep: Path | None,
    tell: Callable[[str], None],
) -> Tokenised:
    key = _key(files, tokenizer, task, labels, seq_len)
    home = None if keep is None else keep / FOLDER
    try:
        if home is not None:
            _clear(home, key)
            if (home / key / INDEX).is_file():
                return Tokenised.read(home / key)
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=home) as name:
            with Writer(Path(name), tokenizer, task, labels, seq_len) as writer:
                _read_all(files, writer, tell)
                folder = writer.finish()
            if home is None:
                return Tokenised.read(folder)  # mapped: the memory stays though the names go
            return Tokenised.read(folder.rename(home / key))
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
    home.mkdir(mode=0o700, exist_ok=True)
    home.chmod(0o700)  # an older decad left it readable for all
    for path in home.iterdir():
        ours = path.name.startswith(UNFINISHED) or (_KEY.fullmatch(path.name) and (path / INDEX).is_file())
        if ours and path.name != key and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _read_all(files: Sequence[Path], writer: Writer, tell: Callable[[str], None]) -> None:
    sizes = [size_of(path) for path in files]
    told, done = time.monotonic(), 0
    for path, size in zip(files, sizes, strict=True):
        for record in read_records(path):
            writer.add(record)
            if time.monotonic() - told > TELL_S:
                told = time.monotonic()
                read = (done + record.offset) / 1e6
                text = f"{writer.records} records, {read:.0f} MB of {sum(sizes) / 1e6:.0f} MB"
                log.info("reading the data: %s", text)
                tell(f"the data to be read ({text})")
        writer.end_file(size)
        done += size


_KEY = re.compile(r"[0-9a-f]{16}")


def _key(files: Sequence[Path], tokenizer: Any, task: str, labels: Sequence[str], seq_len: int) -> str:
    """Of everything on which the tokens depend."""
    about = [
        FORMAT,
        [(str(path.resolve()), *_stamp(path)) for path in files],
        fingerprint_of(tokenizer),
        [task, list(labels), seq_len],
    ]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def _stamp(path: Path) -> tuple[int, int]:
    newest = path if path.is_file() else max(path.rglob("*"), key=lambda p: p.stat().st_mtime_ns)
    return size_of(path), newest.stat().st_mtime_ns
