"""Daemons whose network comes late, changes, or goes and comes back: they find each other whenever there is one."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from support.daemon import FAST, Daemon, Fleet
from support.netns import Namespaces

from decad._proto import control_pb2 as pb

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

OPEN = (*(flag for flag in FAST if flag != "--no-mdns"), "--insecure", "--run", "lan")
ANYWHERE = ("--listen", "0.0.0.0:7700")
QUICK = "from decad.daemon import discovery\ndiscovery.LOOK_S = 0.5"


@pytest.fixture
def net() -> Iterator[Namespaces]:
    with Namespaces(2) as net:
        yield net


def start(peers: Fleet, net: Namespaces, name: str, *options: str) -> Daemon:
    here = net.name("ab".index(name))
    return peers.start(name, *options, defaults=OPEN, namespace=here, before=QUICK)


def mixes_with(address: str, reply: pb.StatusReply) -> bool:
    return any(n.mixing_weight == 0.5 and n.address == f"{address}:7700" for n in reply.neighbours)


def end(*daemons: Daemon) -> None:
    for daemon in daemons:
        daemon.signal(signal.SIGTERM)
    for daemon in daemons:
        result = daemon.result()
        assert result.code == 0
        assert "Traceback" not in result.err


def test_an_address_that_comes_after_the_start(net: Namespaces, peers: Fleet) -> None:
    net.give(1)
    a, b = (start(peers, net, name, *ANYWHERE) for name in "ab")
    reply = b.until(lambda r: r.mdns == "unavailable" and r.progress.step > 3)
    assert any("no interface leads out" in n.text and "again every" in n.text for n in reply.notices)
    net.give(1, f"{net.address(1)}/24")
    a.until(lambda r: mixes_with(net.address(1), r))
    assert b.status().mdns == f"on {net.address(1)}"
    assert b.log.count("no interface leads out") == 1
    end(a, b)


def test_an_address_that_changes(net: Namespaces, peers: Fleet) -> None:
    a, b = (start(peers, net, name, *ANYWHERE) for name in "ab")
    a.until(lambda r: mixes_with(net.address(1), r))
    other = f"{net.address(1).rpartition('.')[0]}.77"
    net.give(1, f"{other}/24")
    a.until(lambda r: mixes_with(other, r))
    b.until(lambda r: r.mdns == f"on {other}" and mixes_with(net.address(0), r))
    end(a, b)


def test_an_interface_that_goes_and_comes_back(net: Namespaces, peers: Fleet) -> None:
    a, b = (start(peers, net, name, *ANYWHERE) for name in "ab")
    a.until(lambda r: mixes_with(net.address(1), r))
    net.give(1)
    a.until(lambda r: all(n.state == "gone" for n in r.neighbours))
    b.until(lambda r: r.mdns == "unavailable")
    net.give(1, f"{net.address(1)}/24")
    for here, there in ((a, 1), (b, 0)):
        here.until(lambda r, there=there: mixes_with(net.address(there), r))  # type: ignore[misc]
    end(a, b)


@pytest.mark.parametrize("listen", ["[::]:7700", "each its own"])
def test_machines_that_speak_ipv6_alone(net: Namespaces, peers: Fleet, listen: str) -> None:
    addresses = ["fd00:dec:ad::1", "fd00:dec:ad::2"]
    for i, address in enumerate(addresses):
        net.give(i, f"{address}/64")
    a, b = (
        start(peers, net, name, "--listen", f"[{address}]:7700" if listen == "each its own" else listen)
        for name, address in zip("ab", addresses, strict=True)
    )
    for here, there in ((a, addresses[1]), (b, addresses[0])):
        reply = here.until(lambda r, there=there: mixes_with(f"[{there}]", r))  # type: ignore[misc]
        assert {n.found for n in reply.neighbours} == {"mdns"}
    end(a, b)
