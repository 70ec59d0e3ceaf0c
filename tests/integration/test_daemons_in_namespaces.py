"""Daemons on machines of their own (network namespaces on one bridge), which find each other by real mDNS."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from support.daemon import FAST, Daemon, Fleet
from support.netns import Namespaces

from decad._proto import control_pb2 as pb

pytestmark = [pytest.mark.netns, pytest.mark.timeout(90)]

OPEN = (*(flag for flag in FAST if flag != "--no-mdns"), "--listen", "0.0.0.0:0", "--insecure")


@pytest.fixture
def net() -> Iterator[Namespaces]:
    with Namespaces(2) as net:
        yield net


def _mixes(reply: pb.StatusReply) -> bool:
    return any(n.mixing_weight == 0.5 for n in reply.neighbours)


def test_two_machines_find_each_other_by_multicast_and_train(net: Namespaces, peers: Fleet) -> None:
    options = ("--run", "lan", "--min-peers", "1")
    a = peers.start("a", *options, defaults=OPEN, namespace=net.name(0))
    b = peers.start("b", *options, defaults=OPEN, namespace=net.name(1))
    for here, there, number in ((a, "b", 1), (b, "a", 0)):
        reply = here.until(lambda r: r.progress.step >= 10 and _mixes(r))
        (neighbour,) = reply.neighbours
        assert (neighbour.name, neighbour.found, neighbour.state) == (there, "mdns", "alive")
        assert neighbour.address.startswith(f"{net.address(number)}:")
        assert reply.mdns == f"on {net.address(1 - number)}"
    _stop(a, b)


def test_multicast_helps_where_the_given_address_is_dead(net: Namespaces, peers: Fleet) -> None:
    a = peers.start("a", defaults=OPEN, namespace=net.name(0))
    dead = f"{net.address(0).rpartition('.')[0]}.99:7700"
    b = peers.start("b", "--peers", dead, defaults=OPEN, namespace=net.name(1))
    reply = b.until(_mixes)
    by_name = {n.name: n for n in reply.neighbours}
    assert by_name["a"].found == "mdns"
    assert (by_name[""].address, by_name[""].state) == (dead, "dialling")
    _stop(a, b)


def test_a_loopback_listener_is_told_that_others_cannot_reach_it(net: Namespaces, peers: Fleet) -> None:
    a = peers.start("a", defaults=OPEN, namespace=net.name(0))
    far = f"{net.address(0)}:{a.address.rpartition(':')[2]}"
    b = peers.start("b", "--peers", far, namespace=net.name(1))
    b.until_log(f"This peer dials {far}, but listens at 127.0.0.1:0, where no other machine can reach it: ")
    reply = a.until(_mixes)
    assert [(n.name, n.address) for n in reply.neighbours] == [("b", "")]
    _stop(a, b)


def _stop(*daemons: Daemon) -> None:
    for daemon in daemons:
        daemon.signal(signal.SIGTERM)
    assert [daemon.result().code for daemon in daemons] == [0] * len(daemons)
