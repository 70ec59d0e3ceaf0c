"""The allocator's tuning applies on glibc and does nothing elsewhere."""

from __future__ import annotations

import os
import platform

import psutil
import pytest

from decad.wire.malloc import trim_malloc, tune_malloc


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library has no mallopt")
def test_it_applies_on_glibc() -> None:
    assert tune_malloc()


def test_it_does_nothing_with_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not tune_malloc()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library has no malloc_trim")
def test_what_lies_free_between_pieces_in_use_goes_back_to_the_kernel() -> None:
    process = psutil.Process()
    pieces = [os.urandom(3000) for _ in range(40_000)]
    kept = pieces[::40]
    del pieces
    before = process.memory_info().rss
    trim_malloc()
    assert before - process.memory_info().rss > 50 << 20
    assert len(kept) == 1000
