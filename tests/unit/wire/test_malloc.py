"""The allocator's tuning applies on glibc and does nothing elsewhere; a process that is not tuned is left alone."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from decad.wire import malloc
from decad.wire.malloc import trim_malloc, tune_malloc

ROOT = Path(__file__).parents[3]
GLIBC = platform.libc_ver()[0] == "glibc"


@pytest.fixture(autouse=True)
def untuned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malloc, "_tuned", False)


@pytest.mark.skipif(not GLIBC, reason="this C library has no mallopt")
def test_it_applies_on_glibc() -> None:
    assert tune_malloc()


def test_it_does_nothing_with_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not tune_malloc()


class CountingLibrary:
    """A C library that counts how often it was asked to trim."""

    trims = 0

    def mallopt(self, option: int, value: int) -> int:
        return 1

    def malloc_trim(self, pad: object) -> None:
        self.trims += 1


def test_only_a_process_that_was_tuned_is_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    library = CountingLibrary()
    monkeypatch.setattr(malloc, "_LIBC", library)
    trim_malloc()
    assert library.trims == 0
    monkeypatch.setattr(malloc, "_tuned", True)
    trim_malloc()
    assert library.trims == 1


@pytest.mark.skipif(not GLIBC, reason="this C library has no malloc_trim")
def test_what_lies_free_between_pieces_in_use_goes_back_to_the_kernel() -> None:
    assert tune_malloc()
    process = psutil.Process()
    pieces = [os.urandom(3000) for _ in range(40_000)]
    kept = pieces[::40]
    del pieces
    before = process.memory_info().rss
    trim_malloc()
    assert before - process.memory_info().rss > 50 << 20
    assert len(kept) == 1000


EMBEDDING = """
import ctypes, resource
import decad.api
from decad.wire import malloc
buffers = []
{tune}
# 16 MiB are mapped anew by an allocator as it comes, and come from the heap of a tuned one.
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
here = libc.malloc(ctypes.c_size_t(16 << 20))
heap = next(line for line in open("/proc/self/maps") if line.endswith("[heap]\\n")).split()[0]
first, last = (int(bound, 16) for bound in heap.split("-"))
print(first <= here < last, malloc._tuned)
"""


@pytest.mark.skipif(not GLIBC, reason="this C library has no mallopt")
@pytest.mark.parametrize(
    ("tune", "told"), [("", "False False"), ("assert decad.api.tune_malloc()", "True True")]
)
def test_the_program_decides_and_importing_decad_does_not(tune: str, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EMBEDDING.format(tune=tune)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == told
