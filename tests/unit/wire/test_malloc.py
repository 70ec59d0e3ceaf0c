"""The allocator's tuning applies on glibc and does nothing elsewhere."""

from __future__ import annotations

import platform

import pytest

from decad.wire.malloc import tune_malloc


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library has no mallopt")
def test_it_applies_on_glibc() -> None:
    assert tune_malloc()


def test_it_does_nothing_with_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not tune_malloc()
