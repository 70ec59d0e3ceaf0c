"""Daemons with a run's secret: who gets in, who has to go, and what happens while the secret changes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from support.daemon import Daemon, Fleet

pytestmark = pytest.mark.timeout(120)

HERE = ("--listen", "127.0.0.1:0")


def have_secret(peers: Fleet, *names: str) -> None:
    """The first makes it, the others get a copy."""
    first = peers.folder / names[0]
    peers.run("secret", "new", "--state-dir", str(first))
    for name in names[1:]:
        hand_over(first, peers.folder / name)


def hand_over(giver: Path, taker: Path) -> None:
    taker.mkdir(mode=0o700, exist_ok=True)
    shutil.copy2(giver / "secret", taker / "secret")


def trio(peers: Fleet) -> tuple[Daemon, Daemon, Daemon]:
    """a made the secret; all know each other."""
    have_secret(peers, "a", "b", "c")
    a = peers.start("a", *HERE)
    b = peers.start("b", "--peers", a.address, *HERE)
    c = peers.start("c", "--peers", f"{a.address},{b.address}", *HERE)
    mixes_with(b, "a", "c")
    return a, b, c


def mixes_with(daemon: Daemon, *names: str) -> None:
    daemon.until(
        lambda reply: (
            {n.name for n in reply.neighbours if n.state == "alive" and n.mixing_weight > 0} == set(names)
        )
    )


def test_members_train_together_and_strangers_stay_outside(peers: Fleet) -> None:
    have_secret(peers, "a", "b")
    a = peers.start("a", *HERE)
    b = peers.start("b", "--peers", a.address, *HERE)
    mixes_with(a, "b")
    assert a.status().protection.startswith("TLS 1.3, open to whoever has the run's secret")
    assert not a.status().insecure
    have_secret(peers, "c")
    outside = {
        "c": peers.start("c", "--peers", a.address, *HERE),
        "d": peers.start("d", "--peers", a.address, *HERE),
    }
    assert "another run's secret" in outside["c"].result().err
    assert "may lack the run's secret" in outside["d"].result().err
    mixes_with(a, "b")
    mixes_with(b, "a")
    assert a.log.count(" is alive: its link is up") == 1


def test_the_secret_changes_while_the_members_train(peers: Fleet) -> None:
    have_secret(peers, "a", "b", "c")
    a = peers.start("a", *HERE)
    b = peers.start("b", "--peers", a.address, *HERE)
    mixes_with(a, "b")
    peers.run("secret", "rotate", "--state-dir", str(a.state_dir))
    mixes_with(a, "b")
    hand_over(a.state_dir, b.state_dir)
    for daemon in (a, b):
        peers.run("secret", "retire", "--state-dir", str(daemon.state_dir))
    a.until_log("is closed: its secret is no longer accepted")
    mixes_with(a, "b")
    mixes_with(b, "a")
    c = peers.start("c", "--peers", a.address, *HERE)
    assert "another run's secret" in c.result().err
    assert a.poll() is None
    assert b.poll() is None


def test_whom_an_admin_denies_has_to_go_everywhere(peers: Fleet) -> None:
    a, b, c = trio(peers)
    target = c.status().peer_id
    said = peers.run("peers", "deny", target[:8], "--state-dir", str(a.state_dir)).out
    assert said == f"Peer {target} is denied, here and at every member that the run's daemons reach.\n"
    mixes_with(a, "b")
    mixes_with(b, "a")
    b.until_log(f"An admin of the run denied peer {target[:8]}")
    c.until_log("closed the link: this peer may not take part: it was denied")
    assert (
        peers.run("peers", "list", "--state-dir", str(b.state_dir)).out.splitlines()[1]
        == f"denied   {target}"
    )
    peers.run("peers", "allow", target, "--state-dir", str(a.state_dir))
    mixes_with(a, "b", "c")


def test_a_member_decides_for_itself_alone(peers: Fleet) -> None:
    a, b, c = trio(peers)
    said = peers.run("peers", "deny", a.status().peer_id, "--state-dir", str(c.state_dir)).out
    assert "on this machine. An admin of the run can decide for all." in said
    mixes_with(c, "b")
    mixes_with(b, "a", "c")


def test_only_the_listed_where_the_operator_wants_that(peers: Fleet) -> None:
    have_secret(peers, "a", "b", "c")
    a = peers.start("a", *HERE)
    b = peers.start("b", "--peers", a.address, *HERE)
    mixes_with(a, "b")
    state = ("--state-dir", str(a.state_dir))
    peers.run("peers", "allow", b.status().peer_id, *state)
    peers.run("peers", "only-listed", *state)
    c = peers.start("c", "--peers", a.address, *HERE, "--min-peers", "1")
    c.until_log("only listed peers take part here")
    mixes_with(a, "b")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--insecure",), "--insecure would leave .*secret unused"),
        (("--tls-ca", "ca.pem"), "--tls-ca, --tls-cert and --tls-key belong together"),
        (("--secret", "nowhere"), "secret cannot be read from .*nowhere: No such file"),
    ],
)
def test_protection_that_contradicts_itself_stops_the_start(
    peers: Fleet, flags: tuple[str, ...], words: str
) -> None:
    have_secret(peers, "a")
    ended = peers.start("a", *HERE, *flags).result()
    assert ended.code == 2
    assert re.search(words, ended.err)
    assert "loading" not in ended.err
