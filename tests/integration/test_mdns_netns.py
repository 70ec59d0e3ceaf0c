"""Discovery between machines (network namespaces), and the namespaces themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.mdns_peer import Driver
from support.netns import Namespaces

pytestmark = pytest.mark.netns


@pytest.fixture
def net() -> Iterator[Namespaces]:
    with Namespaces(2) as net:
        yield net


def _driver(net: Namespaces, i: int, run: str, listen_host: str = "0.0.0.0") -> Driver:
    def start(argv: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
        return net.exec(i, argv, stdout=subprocess.PIPE, env=env)

    return Driver(start, "7700", run, "", listen_host)


def _pings(net: Namespaces, i: int, j: int) -> bool:
    """Whether ``i`` reaches ``j``: who is there refuses a connection, who is not lets it time out."""
    code = (
        "import socket, sys\n"
        "s = socket.socket(); s.settimeout(3)\n"
        "try: s.connect((sys.argv[1], 9))\n"
        "except ConnectionRefusedError: print('there')\n"
        "except OSError: print('not there')\n"
    )
    process = net.exec(i, [sys.executable, "-c", code, net.address(j)], stdout=subprocess.PIPE)
    return process.communicate(timeout=20)[0].strip() == "there"


def _comes_to_ping(net: Namespaces, i: int, j: int) -> bool:
    """The kernel lets a new port of a bridge carry anything only when it hears of its carrier, some time later."""
    return any(_pings(net, i, j) for _ in range(5))


def test_namespaces_reach_each_other_unless_cut(net: Namespaces) -> None:
    assert _comes_to_ping(net, 0, 1)
    net.cut(0)
    assert not _pings(net, 0, 1)
    net.heal(0)
    assert _comes_to_ping(net, 0, 1)


def test_nothing_is_left_of_the_namespaces() -> None:
    with Namespaces(1) as net:
        sleeper = net.exec(0, ["sh", "-c", "sleep 1000 & wait"])
        name = net.name(0)
    assert sleeper.poll() is not None
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True, timeout=20)
    assert name not in listed.stdout


@pytest.mark.parametrize("listen_on", ["all", "one"])
def test_two_machines_find_each_other(net: Namespaces, listen_on: str) -> None:
    run = "demo"
    hosts = ["0.0.0.0", "0.0.0.0"] if listen_on == "all" else [net.address(0), net.address(1)]
    peers = [_driver(net, i, run, hosts[i]) for i in (0, 1)]
    try:
        for i, j in ((0, 1), (1, 0)):
            peers[i].expect(f"found {net.address(j)}:7700")
        assert peers[0].stop() == 0
        peers[1].expect(f"lost {net.address(0)}:7700")
    finally:
        for peer in peers:
            peer.kill()


def test_loopback_of_one_machine_is_not_heard_on_another(net: Namespaces) -> None:
    hidden = _driver(net, 0, "demo", "127.0.0.1")
    a, b = (_driver(net, i, "demo") for i in (0, 1))
    try:
        hidden.expect("started")
        heard = b.expect(f"found {net.address(0)}:7700")
        assert not any("127.0.0.1" in line for line in heard)
    finally:
        for peer in (hidden, a, b):
            peer.kill()


def test_machine_that_was_cut_off_when_it_started_is_found_after_healing(net: Namespaces) -> None:
    net.cut(1)
    peers = [_driver(net, i, "demo") for i in (0, 1)]
    try:
        for peer in peers:
            peer.expect("started")
        net.heal(1)
        for i, j in ((0, 1), (1, 0)):
            peers[i].expect(f"found {net.address(j)}:7700")
    finally:
        for peer in peers:
            peer.kill()
