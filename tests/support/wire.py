"""A bad cable: two network interfaces joined by a program that loses, delays and holds back Ethernet frames.

    python wire.py ONE OTHER LOSS DELAY_S BYTES_PER_S      prints "ready", then forwards until it is ended

`tc netem` does this inside the kernel, where the kernel has it; many are built without, this project's CI's too.
"""

from __future__ import annotations

import array
import fcntl
import heapq
import itertools
import os
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ctypes import CDLL, get_errno

ETH_P_ALL = 0x0003
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
SIOCETHTOOL = 0x8946
OFFLOADS = {
    "transmit checksums": 0x17,
    "scatter-gather": 0x19,
    "segmentation": 0x1F,
    "generic segmentation": 0x24,
}
"""ethtool commands that switch each of these."""
CLONE_NEWNET = 0x4000_0000
LARGEST_FRAME = 1 << 16
BACKLOG_S = 0.4
"""A frame that would wait longer for its turn is dropped, as a router with a short queue does."""


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread's new sockets belong to the network namespace of that name."""
    libc = CDLL(None, use_errno=True)
    with open("/proc/self/ns/net", "rb") as home, open(f"/run/netns/{namespace}", "rb") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
            raise OSError(get_errno(), "setns")
        try:
            yield
        finally:
            libc.setns(home.fileno(), CLONE_NEWNET)


def frames_as_on_a_cable(interface: str) -> None:
    """Have the kernel finish frames before they leave by ``interface``: whole checksums, no longer than the MTU."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for command in OFFLOADS.values():
            value = array.array("B", struct.pack("II", command, 0))
            request = struct.pack("16sP", interface.encode(), value.buffer_info()[0])
            fcntl.ioctl(any_socket, SIOCETHTOOL, request)


class Lane:
    """One direction. ``bytes_per_s``: 0 for no limit."""

    def __init__(
        self, source: socket.socket, target: socket.socket, loss: float, delay_s: float, bytes_per_s: float
    ) -> None:
        self.source, self._target = source, target
        self._loss, self._delay_s, self._bytes_per_s = loss, delay_s, bytes_per_s
        self._random = random.Random(source.fileno())
        self._free_at = 0.0
        self._under_way: list[tuple[float, int, bytes]] = []
        self._count = itertools.count()

    def take(self, now: float) -> None:
        """A frame came in."""
        frame = self.source.recv(LARGEST_FRAME)
        begin = max(now, self._free_at)
        if self._random.random() < self._loss or begin - now > BACKLOG_S:
            return
        self._free_at = begin + (len(frame) / self._bytes_per_s if self._bytes_per_s else 0.0)
        heapq.heappush(self._under_way, (self._free_at + self._delay_s, next(self._count), frame))

    def deliver(self, now: float) -> float:
        """Hand on what has arrived by ``now``; returns when the next frame does, infinity if there is none."""
        while self._under_way and self._under_way[0][0] <= now:
            _, _, frame = heapq.heappop(self._under_way)
            with suppress(OSError):  # the interface there is down
                self._target.send(frame)
        return self._under_way[0][0] if self._under_way else float("inf")


def _open(interface: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    end.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    end.bind((interface, 0))
    return end


def main(one: str, other: str, loss: float, delay_s: float, bytes_per_s: float) -> None:
    """Forward until the process is ended, or the one that started it is."""
    parent = os.getppid()
    a, b = _open(one), _open(other)
    lanes = {
        source.fileno(): Lane(source, target, loss, delay_s, bytes_per_s)
        for source, target in ((a, b), (b, a))
    }
    print("ready", flush=True)
    while os.getppid() == parent:
        due = min(lane.deliver(time.monotonic()) for lane in lanes.values())
        readable, _, _ = select.select(list(lanes), [], [], max(0.0, min(due - time.monotonic(), 1.0)))
        for number in readable:
            lanes[number].take(time.monotonic())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:6]))
