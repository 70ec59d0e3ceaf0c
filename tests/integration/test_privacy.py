"""Nothing of the data leaves a machine, nor its file names, paths or host name: every byte sent is looked at.

What does leave it is in docs/protocol.md, "What leaves a machine".
"""

from __future__ import annotations

import random
import socket
import string
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon, Fleet
from support.tap import LENGTH, TAP, as_numbers, fragments_in, tapped
from transformers import AutoTokenizer

pytestmark = pytest.mark.timeout(120)

PLANTED = {
    "in the greeting": """
from decad.daemon import admission
hello = admission.Admission._hello
def leaking(self, step):
    message = hello(self, step)
    message.listen_host = {secret!r}
    return message
admission.Admission._hello = leaking
""",
    "in a beacon's place": """
from decad.daemon.session import Session
tell = Session.tell_beacon
def leaking(self, force=False):
    import asyncio
    asyncio.ensure_future(self.link.control.send({secret!r}.encode()))
    tell(self, force)
Session.tell_beacon = leaking
""",
    "in a block": """
import torch
from decad.core.coding import Fp32Encoder
payload = Fp32Encoder.payload
def leaking(self, section, chunk, full):
    return memoryview({secret!r}.encode() + bytes(payload(self, section, chunk, full))[{length}:])
Fp32Encoder.payload = leaking
""",
}


def _words(seed: int) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices(string.ascii_letters, k=9)) for _ in range(3000))


class Trio:
    """Three daemons whose data, file names and directories are like nothing else."""

    def __init__(self, peers: Fleet, folder: Path) -> None:
        self.sent, self.texts, self.paths = folder / "tap", {}, {}
        self.sent.mkdir()
        self._peers = peers
        for seed, name in enumerate("abc"):
            self.texts[name] = _words(seed)
            self.paths[name] = folder / f"patients-of-doctor-{name * 9}" / f"diagnoses-{name * 9}.txt"
            self.paths[name].parent.mkdir()
            self.paths[name].write_text(self.texts[name], encoding="utf-8")

    def start(self, name: str, *options: str, leak: str = "") -> Daemon:
        tap = TAP.format(file=str(self.sent / "sent-"))
        return self._peers.start(name, "--data", str(self.paths[name]), *options, before=tap + leak)

    def run(self) -> dict[str, Daemon]:
        a = self.start("a", "--min-peers", "2")
        known = ("--peers", a.address, "--min-peers", "2")
        return {"a": a, "b": self.start("b", *known), "c": self.start("c", *known)}

    def private(self, tokenizer: Any) -> list[bytes]:
        """What may not leave the machine."""
        found = [text.encode() for text in self.texts.values()]
        found += [str(path).encode() for path in self.paths.values()]
        found += [str(self._peers.folder).encode(), str(self._peers.model).encode()]
        if len(socket.gethostname()) >= LENGTH:
            found.append(socket.gethostname().encode())
        for text in self.texts.values():
            found += as_numbers(tokenizer.encode(text[:3000], add_special_tokens=False))
        return found


@pytest.fixture
def trio(peers: Fleet, tmp_path: Path) -> Trio:
    return Trio(peers, tmp_path)


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


def test_nothing_private_is_sent_or_told_to_others(trio: Trio, peers: Fleet, tokenizer: Any) -> None:
    daemons = trio.run()
    daemons["a"].until_step(24)
    stranger = trio.start(
        "b", "--state-dir", str(peers.folder / "s"), "--lr", "0.5", "--peers", daemons["a"].address
    )
    assert stranger.result().code == 8  # refused, with every field that differs
    shown = {}
    for name, daemon in daemons.items():
        daemon.until(lambda reply: len(reply.neighbours) >= 2)
        shown[name] = peers.run("status", "--json", "--state-dir", str(daemon.state_dir)).out
    for daemon in daemons.values():
        peers.run("stop", "--state-dir", str(daemon.state_dir))
    assert [daemon.result().code for daemon in daemons.values()] == [0, 0, 0]
    sent = tapped(trio.sent)
    assert len(sent) > 3 * 2 * 20 * 4 * 1000
    assert fragments_in(sent, trio.private(tokenizer)) == set()
    for name, daemon in daemons.items():
        others = [n for n in daemons if n != name]
        theirs = [trio.texts[n].encode() for n in others] + [trio.paths[n].name.encode() for n in others]
        own = [trio.texts[name].encode()]
        assert fragments_in((shown[name] + daemon.log).encode(), theirs + own) == set()


def test_a_bad_file_is_named_to_its_owner_alone(trio: Trio, peers: Fleet, tokenizer: Any) -> None:
    a = trio.start("a", "--min-peers", "1", "--steps", "8")
    trio.paths["b"].write_bytes(b"\xff" + trio.texts["b"].encode())
    b = trio.start("b", "--peers", a.address)
    ended = b.result()
    assert ended.code == 4
    assert f"{trio.paths['b']} is not UTF-8" in ended.err
    peers.run("stop", "--state-dir", str(a.state_dir))
    assert a.result().code == 0
    assert fragments_in(tapped(trio.sent) + a.log.encode(), [trio.paths["b"].name.encode()]) == set()


@pytest.mark.parametrize("place", PLANTED)
def test_a_leak_that_is_planted_is_found(place: str, trio: Trio, tokenizer: Any) -> None:
    secret = trio.texts["b"][100 : 100 + LENGTH + 2]
    leak = PLANTED[place].format(secret=secret, length=len(secret))
    a = trio.start("a", "--min-peers", "1", "--steps", "8")
    b = trio.start("b", "--peers", a.address, "--steps", "8", leak=leak)
    while not fragments_in(tapped(trio.sent), trio.private(tokenizer)) and b.poll() is None:
        pass
    assert secret.encode()[:LENGTH] in fragments_in(tapped(trio.sent), trio.private(tokenizer))
