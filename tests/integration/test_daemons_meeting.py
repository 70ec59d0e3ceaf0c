"""Daemons that dial each other at the same moment: they settle on one run, or all refuse."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest
from support.daemon import FAST, Daemon, Fleet

pytestmark = pytest.mark.timeout(90)

LOCAL = tuple(flag for flag in FAST if flag not in ("--inner-steps", "4"))
"""Without anything that all peers must agree on."""


def _free_addresses(count: int) -> list[str]:
    """Addresses that nobody listens at, all different; somebody else may take one before they are used."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def _start(peers: Fleet, settings: dict[str, tuple[str, ...]], *common: str) -> list[Daemon]:
    """All at once, each knowing the addresses of all (its own too)."""
    addresses = _free_addresses(len(settings))
    known = ("--peers", ",".join(addresses), *common)
    return [
        peers.start(name, "--listen", address, *known, *flags, defaults=LOCAL)
        for address, (name, flags) in zip(addresses, settings.items(), strict=True)
    ]


def test_what_one_operator_set_holds_for_all(peers: Fleet) -> None:
    settings: dict[str, tuple[str, ...]] = {
        "a": ("--lr", "1e-3", "--inner-steps", "3", "--run", "one"),
        "b": (),
        "c": ("--run", "one"),
        "d": (),
    }
    daemons = _start(peers, settings, "--min-peers", "3", "--steps", "30")
    replies = [daemon.until(lambda reply: reply.progress.step > 0) for daemon in daemons]
    assert len({reply.fingerprint for reply in replies}) == 1
    assert {(reply.run, reply.progress.inner_steps) for reply in replies} == {("one", 3)}
    assert [daemon.result().code for daemon in daemons] == [0] * 4
    for daemon in daemons:
        assert daemon.log.count(" is alive: its link is up\n") >= 3
        assert "suspect" not in daemon.log


def test_of_two_that_contradict_each_other_both_refuse(peers: Fleet) -> None:
    daemons = _start(peers, {"a": ("--lr", "0.5"), "b": ("--lr", "0.25")})
    ended = [daemon.result() for daemon in daemons]
    assert [result.code for result in ended] == [8, 8]
    assert "lr is 0.5 here and 0.25 there" in ended[0].err.splitlines()[-1]
    assert "lr is 0.25 here and 0.5 there" in ended[1].err.splitlines()[-1]
