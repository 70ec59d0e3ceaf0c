"""A machine that has nothing but decad installed joins a run by invitation, over a network of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import FAST, Fleet
from support.netns import Namespaces

from decad.cli.client import get_status

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

DECAD = str(Path(sys.executable).with_name("decad"))


@pytest.fixture
def net() -> Iterator[Namespaces]:
    with Namespaces(2) as net:
        yield net


def started_member(peers: Fleet, net: Namespaces) -> Path:
    peers.run("secret", "new", "--state-dir", str(peers.folder / "a"))
    loaded_by = ("--adapters", "2", "--blocks", "sublayers")
    where = f"{net.address(0)}:7700"
    a = peers.start("a", "--run", "ward", "--listen", where, *loaded_by, namespace=net.name(0))
    a.until_step(1)
    return a.state_dir


def invite(net: Namespaces, state_dir: Path, *options: str) -> subprocess.Popen[str]:
    return net.exec(
        0,
        [DECAD, "invite", "--state-dir", str(state_dir), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def join(net: Namespaces, address: str, code: str, state_dir: Path, *options: str) -> subprocess.Popen[str]:
    line = " ".join(["echo", code, "|", DECAD, "join", address, "--state-dir", str(state_dir), *options])
    return net.exec(1, ["sh", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_by_invitation_a_bare_machine_trains_with_the_others(peers: Fleet, net: Namespaces) -> None:
    state_dir = started_member(peers, net)
    invitation = invite(net, state_dir, "--yes", "--json")
    assert invitation.stdout is not None
    told = json.loads(invitation.stdout.readline())
    guest = peers.folder / "guest"
    text = peers.texts / "b.txt"
    began = time.monotonic()
    joining = join(net, told["addresses"][0], told["code"], guest, "--data", str(text), *FAST)
    out, _ = invitation.communicate(timeout=60)
    assert invitation.returncode == 0
    shown = json.loads(out.splitlines()[0])
    assert shown["address"] == net.address(1)
    reply = peers["a"].until(lambda r: any(n.state == "alive" and n.mixing_weight > 0 for n in r.neighbours))
    print(f"from the invitation to the first mixed step: {time.monotonic() - began:.1f} s")
    assert reply.neighbours[0].peer_id == shown["peer"]
    there = get_status(guest)
    assert (there.run, there.model) == ("ward", str(guest / "model"))
    expected = {"task": "causal-lm", "adapters": "2", "blocks": "sublayers"}
    assert dict(there.loading) == expected
    assert there.protection.startswith("TLS 1.3")
    assert (guest / "secret").stat().st_mode & 0o777 == 0o600
    assert (guest / "secret").read_bytes() == (state_dir / "secret").read_bytes()
    assert joining.poll() is None


def test_a_wrong_code_tells_both_ends_and_leaves_nothing(peers: Fleet, net: Namespaces) -> None:
    state_dir = started_member(peers, net)
    invitation = invite(net, state_dir, "--yes", "--json")
    assert invitation.stdout is not None
    assert invitation.stderr is not None
    told = json.loads(invitation.stdout.readline())
    guest = peers.folder / "guest"
    for _ in range(3):
        out, err = join(net, told["addresses"][0], "lusab-babad-lusab", guest).communicate(timeout=30)
        assert "the code is wrong" in err
        assert out == ""
    _, said = invitation.communicate(timeout=30)
    assert invitation.returncode == 8
    assert f"A try from {net.address(1)} failed: the code is wrong (2 left)." in said
    assert "void after 3 tries" in said
    assert not (guest / "secret").exists()


def test_without_data_the_line_to_start_is_printed(peers: Fleet, net: Namespaces) -> None:
    state_dir = started_member(peers, net)
    invitation = invite(net, state_dir, "--yes", "--json")
    assert invitation.stdout is not None
    told = json.loads(invitation.stdout.readline())
    guest = peers.folder / "guest"
    out, err = join(net, told["addresses"][0], told["code"], guest).communicate(timeout=60)
    assert "all hashes as the inviter's" in err
    loaded_by = "--task causal-lm --adapters 2 --blocks sublayers"
    line = f"decad start --run ward {loaded_by} --model {guest / 'model'} --peers {net.address(0)}:7700"
    assert line in out


def test_a_run_without_a_secret_cannot_invite(peers: Fleet) -> None:
    a = peers.start("a")
    a.until_step(1)
    done = peers.run("invite", "--state-dir", str(a.state_dir))
    assert done.code == 2
    assert "decad secret new" in done.err
