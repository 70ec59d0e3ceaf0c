"""glibc's allocator set up for messages of a megabyte: the largest lever on the speed of an exchange.

By default glibc maps memory anew for large messages and the kernel zeroes the pages each time. Kept in the
heap instead, the same pages serve message after message (tests/bench/bench_exchange.py shows the difference).

That is a setting of the whole process, so the program decides: `decad start` tunes, and a program that holds a peer
calls `tune_malloc` or leaves it (docs/how-to/library.md). What decad does later follows from that one decision.
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

_tuned = False


def tune_malloc() -> bool:
    """Tune this process's allocator; call it once, at the program's start, before threads are.

    The exchange of blocks gets faster (1.3 to 2 times on two cores) and the process keeps up to 1 GiB of free memory.
    False, and nothing done, where the C library is not glibc.
    """
    global _tuned
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = _LIBC.mallopt
    except AttributeError:
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    applied = mallopt(_M_MMAP_THRESHOLD, KEEP_BELOW_BYTES) and mallopt(_M_TRIM_THRESHOLD, TRIM_ABOVE_BYTES)
    _tuned = bool(applied)
    return _tuned


def trim_malloc() -> None:
    """Give back to the kernel what lies free between the pieces in use, if `tune_malloc` makes the process keep it.

    Somebody must, now and then: a link's end leaves holes of some kilobytes. Nothing in a process that was not tuned,
    whose memory is its program's affair: trimming locks every arena while it looks through them.
    """
    if _tuned and (trim := getattr(_LIBC, "malloc_trim", None)) is not None:
        trim(ctypes.c_size_t(0))
