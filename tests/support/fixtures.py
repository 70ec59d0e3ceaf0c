"""Fixtures of the suites that start whole processes: the process that forks them, tiny models, private texts.

One nursery serves all the suites of a session, so tests/conftest.py takes these in. Models are imported when made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemon import Fleet, fleet
from support.nursery import Nursery

TEXTS = {
    "a": "the quick brown fox jumps over the lazy dog, and the dog does not mind. ",
    "b": "0123456789 times 11 is 13580245679; 7 * 6 = 42; pi is about 3.14159265. ",
    "c": "IN WITNESS WHEREOF THE PARTIES HAVE SET THEIR HANDS AND SEALS HERETO. ",
}


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of three blocks; only to be read."""
    from support.tiny import make_tiny_llama

    return make_tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama whose layers are blocks of three chunks; only to be read."""
    from support.tiny import make_tiny_llama

    return make_tiny_llama(tmp_path_factory.mktemp("wide"), hidden=256)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a text for each of the peers a, b and c."""
    folder = tmp_path_factory.mktemp("texts")
    for name, text in TEXTS.items():
        (folder / f"{name}.txt").write_text(text * 200, encoding="utf-8")
    return folder


@pytest.fixture
def peers(nursery: Nursery, tmp_path: Path, tiny: Path, texts: Path) -> Iterator[Fleet]:
    """Daemons and commands of one test."""
    with fleet(nursery, tmp_path, tiny, texts) as peers:
        yield peers
