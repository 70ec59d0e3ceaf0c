"""What daemons send to each other, byte for byte, and whether anything private is in it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LENGTH = 12
"""Bytes of the shortest fragment that counts as private."""
TABLE_BITS = 24
PART = 1 << 22
"""Bytes that are looked at in one go: what bounds the memory of the search."""

TAP = """
import os
from decad.wire.grpc_link import GrpcChannel
send = GrpcChannel.send
sent = open({file!r} + str(os.getpid()), "ab", buffering=0)
async def tapped(self, message):
    sent.write(bytes(message))
    await send(self, message)
GrpcChannel.send = tapped
"""
"""Everything that a process gives to the transport; on top of it come gRPC's own frames with a random nonce."""

HOST = "made-up-host-of-ward-eleven"
RENAME = f"""
import ctypes, os, socket
if os.geteuid() == 0:
    assert ctypes.CDLL(None, use_errno=True).unshare(0x0400_0000) == 0
    socket.sethostname({HOST!r})
"""
"""The process gets a UTS namespace of its own, in which the host has a name like nothing else. Only root can."""


def tapped(folder: Path) -> bytes:
    """All that processes with `TAP` in this ``folder`` sent."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("sent-*")))


def fragments_in(sent: bytes, private: Iterable[bytes], length: int = LENGTH) -> set[bytes]:
    """The fragments of ``length`` bytes, 8 at least, of ``private`` that are in ``sent``."""
    wanted, table = set(), np.zeros(1 << TABLE_BITS, dtype=bool)
    for text in private:
        table[_slots(text, length)] = True
        wanted |= {text[at : at + length] for at in range(len(text) - length + 1)}
    found = set()
    for begin in range(0, len(sent), PART):
        part = sent[begin : begin + PART + length - 1]
        found |= {part[at : at + length] for at in np.flatnonzero(table[_slots(part, length)])}
    return found & wanted


def tokens_in(sent: bytes, texts: Iterable[Sequence[int]], count: int = 6) -> set[bytes]:
    """The runs of ``count`` token ids of ``texts`` that are in ``sent`` in two, four or eight bytes each.

    Whole runs: twelve bytes of a run in eight bytes each are a token or two and zeros, and so are blocks at times.
    """
    runs = [text[start : start + count] for text in texts for start in range(len(text) - count + 1)]
    widths = (struct.Struct(f"<{count}{width}") for width in "Hiq")
    found = (fragments_in(sent, [width.pack(*run) for run in runs], width.size) for width in widths)
    return set().union(*found)


def _slots(text: bytes, length: int) -> NDArray[np.uint64]:
    """For each window of ``length`` bytes, where its first eight bytes are in the table: multiplicative hashing."""
    if len(text) < length:
        return np.empty(0, dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(text, np.uint8), 8)
    eights = np.ascontiguousarray(windows[: len(text) - length + 1]).view("<u8").ravel()
    return (eights * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - TABLE_BITS)
