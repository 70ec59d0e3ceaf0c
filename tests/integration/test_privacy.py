"""Nothing of the data leaves a machine, nor its file names, paths or host name: every byte sent is looked at.

What does leave it is in docs/protocol.md, "What leaves a machine".
"""

from __future__ import annotations

import random
import string
import struct
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon, Fleet
from support.tap import HOST, LENGTH, RENAME, TAP, fragments_in, tapped, tokens_in
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
    "as token ids in a block": """
from decad.core.coding import Fp32Encoder
payload = Fp32Encoder.payload
def leaking(self, section, chunk, full):
    return memoryview({ids!r} + bytes(payload(self, section, chunk, full))[len({ids!r}):])
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
        return self._peers.start(name, "--data", str(self.paths[name]), *options, before=RENAME + tap + leak)

    def run(self) -> dict[str, Daemon]:
        """a and b train, and c joins them late: it fetches what they have trained."""
        a = self.start("a", "--min-peers", "1")
        b = self.start("b", "--min-peers", "1", "--peers", a.address)
        a.until_step(24)
        c = self.start("c", "--peers", a.address)
        c.until_log("fetching . blocks")
        return {"a": a, "b": b, "c": c}

    def private(self) -> list[bytes]:
        """What may not leave the machine, as text."""
        found = [text.encode() for text in self.texts.values()]
        found += [str(path).encode() for path in self.paths.values()]
        return [*found, str(self._peers.folder).encode(), str(self._peers.model).encode(), HOST.encode()]

    def leaked(self, tokenizer: Any) -> set[bytes]:
        """What has left it all the same."""
        sent = tapped(self.sent)
        ids = [tokenizer.encode(text[:3000], add_special_tokens=False) for text in self.texts.values()]
        return fragments_in(sent, self.private()) | tokens_in(sent, ids)


@pytest.fixture
def trio(peers: Fleet, tmp_path: Path) -> Trio:
    return Trio(peers, tmp_path)


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


def test_nothing_private_is_sent_or_told_to_others(trio: Trio, peers: Fleet, tokenizer: Any) -> None:
    daemons = trio.run()
    stranger = trio.start(
        "b", "--state-dir", str(peers.folder / "s"), "--lr", "0.5", "--peers", daemons["a"].address
    )
    assert stranger.result().code == 8  # refused, with every field that differs
    shown = {}
    for name, daemon in daemons.items():
        daemon.until(lambda reply: len(reply.neighbours) >= 2)
        shown[name] = "".join(
            peers.run(command, "--json", "--state-dir", str(daemon.state_dir)).out
            for command in ("status", "neighbours")
        )
    for daemon in daemons.values():
        peers.run("stop", "--state-dir", str(daemon.state_dir))
    assert [daemon.result().code for daemon in daemons.values()] == [0, 0, 0]
    assert len(tapped(trio.sent)) > 3 * 2 * 20 * 4 * 1000
    assert trio.leaked(tokenizer) == set()
    for name, daemon in daemons.items():
        private = [text.encode() for text in trio.texts.values()] + [HOST.encode()]
        for other in daemons.keys() - {name}:
            private += [f"doctor-{other * 9}".encode(), trio.paths[other].name.encode()]
        assert fragments_in((shown[name] + daemon.log).encode(), private) == set()


def test_a_bad_file_is_named_to_its_owner_alone(trio: Trio, peers: Fleet) -> None:
    a = trio.start("a", "--min-peers", "1", "--steps", "8")
    trio.paths["b"].write_bytes(b"\xff" + trio.texts["b"].encode())
    b = trio.start("b", "--peers", a.address)
    ended = b.result()
    assert ended.code == 4
    assert str(trio.paths["b"]) in ended.err
    assert "is not UTF-8" in ended.err
    peers.run("stop", "--state-dir", str(a.state_dir))
    assert a.result().code == 0
    private = [trio.texts["b"].encode(), str(trio.paths["b"].relative_to(peers.folder)).encode()]
    assert fragments_in(tapped(trio.sent) + a.log.encode(), private) == set()


@pytest.mark.parametrize("place", PLANTED)
def test_a_leak_that_is_planted_is_found(place: str, trio: Trio, tokenizer: Any) -> None:
    secret = trio.texts["b"][100 : 100 + LENGTH + 2]
    ids = struct.pack("<6q", *tokenizer.encode(secret[:6], add_special_tokens=False))
    leak = PLANTED[place].format(secret=secret, length=len(secret), ids=ids)
    a = trio.start("a", "--min-peers", "1", "--steps", "8")
    b = trio.start("b", "--peers", a.address, "--steps", "8", leak=leak)
    b.result()
    assert trio.leaked(tokenizer) & {secret.encode()[:LENGTH], ids}
