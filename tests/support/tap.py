"""What daemons send to each other, byte for byte, and whether anything private is in it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LENGTH = 12
"""Bytes of the shortest fragment that counts as private."""

TAP = """
import os
from decad.wire.grpc_transport import GrpcChannel
send = GrpcChannel.send
sent = open({file!r} + str(os.getpid()), "ab", buffering=0)
async def tapped(self, message):
    sent.write(bytes(message))
    await send(self, message)
GrpcChannel.send = tapped
"""
"""Everything that a process gives to the transport; on top of it come gRPC's own frames with a random nonce."""


def tapped(folder: Path) -> bytes:
    """All that processes with `TAP` in this ``folder`` sent."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("sent-*")))


def fragments_in(sent: bytes, private: Iterable[bytes]) -> set[bytes]:
    """The fragments of `LENGTH` bytes of ``private`` that are in ``sent``."""
    wanted = np.unique(np.concatenate([_windows(text) for text in private]))
    return {fragment.tobytes() for fragment in np.intersect1d(_windows(sent), wanted)}


def as_numbers(tokens: Sequence[int], count: int = 6) -> list[bytes]:
    """Runs of ``count`` token ids as they would lie in memory: in two, four and eight bytes each."""
    runs = [tokens[start : start + count] for start in range(len(tokens) - count + 1)]
    return [struct.pack(f"<{count}{width}", *run) for run in runs for width in "Hiq"]


def _windows(text: bytes) -> NDArray[np.void]:
    if len(text) < LENGTH:
        return np.empty(0, dtype=f"V{LENGTH}")
    view = np.lib.stride_tricks.sliding_window_view(np.frombuffer(text, np.uint8), LENGTH)
    return np.ascontiguousarray(view).view(f"V{LENGTH}").ravel()
