"""Integers on their way into protobuf, which raises on those that its fields cannot hold."""

from __future__ import annotations


def as_uint32(value: int) -> int:
    """``value``, or the nearest that a uint32 field holds."""
    return min(max(value, 0), 2**32 - 1)


def as_uint64(value: int) -> int:
    """``value``, or the nearest that a uint64 field holds."""
    return min(max(value, 0), 2**64 - 1)


def as_sint64(value: int) -> int:
    """``value``, or the nearest that an int64 or sint64 field holds."""
    return min(max(value, -(2**63)), 2**63 - 1)
