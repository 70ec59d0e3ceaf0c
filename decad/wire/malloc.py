"""glibc's allocator set up for messages of a megabyte: the largest lever on the speed of an exchange.

By default glibc maps memory anew for large messages and the kernel zeroes the pages each time. Kept in the
heap instead, the same pages serve message after message (tests/bench/bench_exchange.py shows the difference).
"""

from __future__ import annotations

import ctypes
import platform

_LIBC = ctypes.CDLL(None)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
KEEP_BELOW_BYTES = 32 << 20
"""Requests below this come from the heap; glibc accepts no more than this."""
TRIM_ABOVE_BYTES = 1 << 30
"""So much may lie free at the heap's top before it goes back to the kernel."""


def trim_malloc() -> None:
    """Give back to the kernel what lies free between the pieces in use; nothing where the libc is not glibc.

    Since `tune_malloc` keeps it, somebody must, now and then: a link's end leaves holes of some kilobytes.
    """
    if (trim := getattr(_LIBC, "malloc_trim", None)) is not None:
        trim(ctypes.c_size_t(0))


def tune_malloc() -> bool:
    """Tune this process; call before threads start. False, and nothing done, where the libc is not glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = _LIBC.mallopt
    except AttributeError:
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    applied = mallopt(_M_MMAP_THRESHOLD, KEEP_BELOW_BYTES) and mallopt(_M_TRIM_THRESHOLD, TRIM_ABOVE_BYTES)
    return bool(applied)
