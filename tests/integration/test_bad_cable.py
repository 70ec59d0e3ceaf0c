"""The cable that the tests of faults rely on: it loses, delays and holds back what it is told to, and no more."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from support.netns import Namespaces
from support.wire import inside

pytestmark = [pytest.mark.netns, pytest.mark.timeout(60)]

PORT = 7700
PATIENCE_S = 10.0


@pytest.fixture
def net() -> Iterator[Namespaces]:
    with Namespaces(2) as net:
        yield net


def _datagrams(net: Namespaces, count: int) -> tuple[int, float]:
    """Send numbered datagrams from 1 to 0: how many came, and seconds that the first was under way."""
    with inside(net.name(0)):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with inside(net.name(1)):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.bind((net.address(0), PORT))
        receiver.settimeout(1.0)
        begun = time.monotonic()
        for number in range(count):
            sender.sendto(str(number).encode(), (net.address(0), PORT))
            time.sleep(0.001)  # no burst that a socket's buffer could not hold
        came, first = 0, 0.0
        try:
            while came < count:
                receiver.recv(64)
                first = first or time.monotonic() - begun
                came += 1
        except TimeoutError:
            pass
        return came, first


def _stream(net: Namespaces, data: bytes) -> tuple[bytes, float]:
    """Send ``data`` from 1 to 0 by TCP: what came, and in how many seconds."""
    with inside(net.name(0)):
        server = socket.create_server((net.address(0), PORT))
    with inside(net.name(1)):
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    came = bytearray()
    with server, client:
        client.settimeout(PATIENCE_S)
        client.connect((net.address(0), PORT))
        accepted, _ = server.accept()
        begun = time.monotonic()

        def send() -> None:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sending = threading.Thread(target=send)
        sending.start()
        with accepted:
            accepted.settimeout(PATIENCE_S)
            while part := accepted.recv(1 << 16):
                came += part
        sending.join(PATIENCE_S)
        return bytes(came), time.monotonic() - begun


def test_it_loses_the_share_that_it_is_told_to(net: Namespaces) -> None:
    net.worsen(0, loss=0.2)
    assert _datagrams(net, 1)[0] <= 1  # addresses are resolved meanwhile
    came, _ = _datagrams(net, 200)
    assert 130 < came < 190


def test_it_delays_each_frame_and_loses_none(net: Namespaces) -> None:
    net.worsen(0, delay_s=0.2)
    _datagrams(net, 1)
    came, first = _datagrams(net, 100)
    assert came == 100
    assert first >= 0.2


def test_it_carries_a_stream_unchanged_at_the_given_rate_until_it_is_mended(net: Namespaces) -> None:
    data = bytes(range(256)) * 1000
    net.worsen(0, bytes_per_s=125_000)
    came, slow = _stream(net, data)
    assert came == data
    assert slow > len(data) / 125_000 - 0.5
    net.mend(0)
    came, fast = _stream(net, data)
    assert came == data
    assert fast < slow
