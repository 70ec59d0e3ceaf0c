"""Inviter and joiner on one event loop, over real connections: who gets in, with what, and how often one may try."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from decad.errors import NetworkError, PeerError
from decad.membership.identity import Identity
from decad.trust import conversation, inviting, proof
from decad.trust.code import in_syllables, new_code, typed
from decad.trust.conversation import Conversation, client_tls, server_tls
from decad.trust.handover import Handover, ModelFile, Receiving, files_of
from decad.trust.inviting import MOST_TRIES, Guest, Inviter
from decad.trust.joining import Joiner
from decad.trust.pake import Agreed, Pake, WrongCodeError
from decad.trust.secret import new_secret, to_text

SECRET = new_secret()


def model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(secrets.token_bytes(3_000_000))
    (folder / "modeling_evil.py").write_text("import os")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / ".hidden.json").write_text("{}")
    return folder


def test_no_setting_but_those_that_a_model_is_loaded_by_is_taken() -> None:
    told = {"labels": "a,b", "adapters": "4", "state_dir": "/", "model": "/x", "seed": "3"}
    taken = Handover(run="r", fingerprint="f", port=7700, loading=told).loading
    assert taken == {"labels": "a,b", "adapters": "4"}


async def yes(guest: Guest) -> bool:
    return True


class Scene:
    """An inviter that waits, and what it said."""

    def __init__(self, folder: Path, agrees: Callable[[Guest], Awaitable[bool]] = yes) -> None:
        self.directory = model(folder / "model")
        self.handover = Handover(
            run="r", fingerprint="f", secrets=(to_text(SECRET),), port=7700, model=files_of(self.directory)
        )
        self.told: list[str] = []
        self.admitted: list[str] = []
        self.inviter = Inviter(self.handover, self.directory, agrees, self.admitted.append, self.told.append)
        self.address = ""

    async def begin(self) -> asyncio.Task[None]:
        self.address = f"127.0.0.1:{await self.inviter.listen('127.0.0.1', 0)}"
        return asyncio.create_task(self.inviter.run())

    def joiner(self, identity: Identity | None = None) -> Joiner:
        return Joiner(self.address, identity or Identity.generate(), "guest")

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.address.split(":")
        return await asyncio.open_connection(host, int(port), ssl=client_tls(), server_hostname="")


async def fetched(joiner: Joiner, directory: Path) -> int:
    return await joiner.fetch(await joiner.handover(), directory, lambda name, size: None)


async def test_with_the_code_one_gets_the_secret_and_the_model_and_nothing_that_could_be_code(
    tmp_path: Path,
) -> None:
    guests: list[Guest] = []

    async def agrees(guest: Guest) -> bool:
        guests.append(guest)
        return True

    scene, identity = Scene(tmp_path, agrees), Identity.generate()
    waiting = await scene.begin()
    joiner = scene.joiner(identity)
    agreed = await joiner.prove(scene.inviter.code)
    handover = await joiner.handover()
    assert handover == scene.handover
    taken = handover.membership()
    assert taken is not None
    assert taken.secrets == (SECRET,)
    await joiner.fetch(handover, tmp_path / "copy", lambda name, size: None)
    await waiting
    await joiner.close()
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["config.json", "model.safetensors"]
    for path in (tmp_path / "copy").iterdir():
        assert path.read_bytes() == (scene.directory / path.name).read_bytes()
    (guest,) = guests
    assert guest.words == agreed.words
    assert (guest.peer, guest.name, guest.address) == (identity.peer_id, "guest", "127.0.0.1")
    assert scene.admitted == [identity.peer_id]


async def test_three_wrong_codes_burn_the_invitation(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    waiting = await scene.begin()
    for _ in range(MOST_TRIES):
        with pytest.raises(PeerError, match="the code is wrong"):
            await scene.joiner().prove(new_code())
    with pytest.raises(PeerError, match="void after 3 tries"):
        await waiting
    with pytest.raises((PeerError, NetworkError)):
        await scene.joiner().prove(scene.inviter.code)
    assert "(the code is void)" in scene.told[-1]


MALFORMED = [
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x04{}{}",
    b"\x00\x00\x00\x02[]",
    b"\x00\x00\x00\x02{}",
    b'\x00\x00\x00\x0b{"pake":"00"',
    b"\x00\x00\x00\x20" + b'{"pake":"zz","key":"' + b"0" * 12,
]


@pytest.mark.parametrize("sent", MALFORMED)
async def test_malformed_tries_burn_it_too(sent: bytes, tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    waiting = await scene.begin()
    for _ in range(MOST_TRIES):
        reader, writer = await scene.raw()
        writer.write(sent)
        writer.write_eof() if writer.can_write_eof() else writer.close()
        await reader.read()
        writer.close()
    with pytest.raises(PeerError, match="void after 3 tries"):
        await waiting


async def test_a_thousand_malformed_tries_get_three_answers_and_the_inviter_lives(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    waiting = await scene.begin()
    refused = 0
    for _ in range(1000):
        try:
            reader, writer = await scene.raw()
        except OSError:
            refused += 1
            continue
        writer.write(b"\x00\x00\x00\x02[]")
        await reader.read()
        writer.close()
    assert len(scene.told) == MOST_TRIES
    assert refused > 900
    with pytest.raises(PeerError, match="void"):
        await waiting


async def test_who_connects_and_says_nothing_has_not_tried(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    waiting = await scene.begin()
    for _ in range(2 * MOST_TRIES):
        _, writer = await scene.raw()
        writer.close()
    joiner = scene.joiner()
    await joiner.prove(scene.inviter.code)
    await fetched(joiner, tmp_path / "copy")
    await waiting


async def test_the_code_is_good_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    waiting = await scene.begin()
    first = scene.joiner()
    await first.prove(scene.inviter.code)
    await first.handover()
    with pytest.raises(PeerError, match="used up"):
        await scene.joiner().prove(scene.inviter.code)
    await fetched_rest(first, scene, tmp_path / "copy")
    await waiting


async def fetched_rest(joiner: Joiner, scene: Scene, directory: Path) -> None:
    await joiner.fetch(scene.handover, directory, lambda name, size: None)


async def test_after_ten_minutes_the_code_is_void(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inviting, "VALID_S", 0.05)
    scene = Scene(tmp_path)
    with pytest.raises(PeerError, match="Nobody came"):
        await (await scene.begin())
    with pytest.raises(NetworkError, match="Nobody invites"):
        await scene.joiner().prove(scene.inviter.code)


async def test_a_no_hands_over_nothing(tmp_path: Path) -> None:
    async def no(guest: Guest) -> bool:
        return False

    scene = Scene(tmp_path, no)
    waiting = await scene.begin()
    joiner = scene.joiner()
    await joiner.prove(scene.inviter.code)
    with pytest.raises(PeerError, match="said no"):
        await joiner.handover()
    with pytest.raises(PeerError, match="You said no"):
        await waiting
    assert scene.admitted == []


async def test_a_stranger_in_the_middle_ends_up_with_neither(tmp_path: Path) -> None:
    """It passes everything on, behind a certificate of its own: what it showed is not what the inviter has."""
    scene = Scene(tmp_path)
    waiting = await scene.begin()
    tls, _ = server_tls()
    seen = bytearray()

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await scene.raw()

        async def pass_on(source: asyncio.StreamReader, into: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                seen.extend(data)
                into.write(data)
            into.close()

        await asyncio.gather(pass_on(reader, there_writer), pass_on(there_reader, writer))

    server = await asyncio.start_server(between, "127.0.0.1", 0, ssl=tls)
    joiner = Joiner(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", Identity.generate(), "")
    with pytest.raises(PeerError, match="the code is wrong"):
        await joiner.prove(scene.inviter.code)
    await joiner.close()
    assert to_text(SECRET).encode() not in bytes(seen)
    assert scene.told == ["a try from 127.0.0.1 failed: the code is wrong (2 left)"]
    server.close()
    waiting.cancel()


async def test_somebody_who_claims_to_invite_without_the_code_is_found_out(tmp_path: Path) -> None:
    tls, certificate = server_tls()

    async def claims(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = Conversation(reader, writer)
        hello = await talk.hear()
        pake = Pake(new_code(), False, certificate, bytes.fromhex(hello["key"]))
        pake.finish(bytes.fromhex(hello["pake"]))
        await talk.say({"pake": pake.message.hex()})
        await talk.hear()
        await talk.say({"proof": "00" * 32})
        await talk.close()

    server = await asyncio.start_server(claims, "127.0.0.1", 0, ssl=tls)
    joiner = Joiner(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", Identity.generate(), "")
    with pytest.raises(PeerError, match="is not the inviter"):
        await joiner.prove(new_code())
    await joiner.close()
    server.close()


async def test_another_key_than_that_which_signed_is_refused(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    waiting = await scene.begin()
    talk, claimed = Conversation(*await scene.raw()), Identity.generate()
    der = claimed.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    pake = Pake(scene.inviter.code, True, talk.certificate, der)
    await talk.say({"pake": pake.message.hex(), "key": der.hex()})
    agreed = pake.finish(bytes.fromhex((await talk.hear())["pake"]))
    forged = proof.sign(Identity.generate(), [b"decad join 1", agreed.transcript])
    await talk.say({"proof": agreed.proof("joiner").hex(), "signature": forged.signature.hex()})
    assert "identity" in (await talk.hear())["error"]
    await talk.close()
    waiting.cancel()


async def test_a_broken_connection_is_gone_on_with(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    waiting = await scene.begin()
    joiner = scene.joiner()
    await joiner.prove(scene.inviter.code)
    handover = await joiner.handover()
    came = 0

    def breaks(name: str, size: int) -> None:
        nonlocal came
        came += size
        if came == size or came == 6 * size:  # twice, in the middle of the large file
            assert joiner._conversation is not None
            joiner._conversation._writer.transport.abort()

    await joiner.fetch(handover, tmp_path / "copy", breaks)
    await waiting
    assert came <= 3_000_002 + 2 * conversation.PIECE_BYTES
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (
        scene.directory / "model.safetensors"
    ).read_bytes()


async def test_a_model_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    waiting = await scene.begin()
    joiner = scene.joiner()
    await joiner.prove(scene.inviter.code)
    assert await fetched(joiner, scene.directory) == 0
    await waiting


async def test_a_file_that_is_not_what_was_announced_is_thrown_away(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    waiting = await scene.begin()
    joiner = scene.joiner()
    await joiner.prove(scene.inviter.code)
    handover = await joiner.handover()
    damaged = bytearray((scene.directory / "model.safetensors").read_bytes())
    damaged[-1] ^= 1
    (scene.directory / "model.safetensors").write_bytes(damaged)
    with pytest.raises(PeerError, match="arrived damaged"):
        await joiner.fetch(handover, tmp_path / "copy", lambda name, size: None)
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["config.json"]
    await joiner.close()
    waiting.cancel()


@pytest.mark.parametrize(
    "wish", ["../secret", "/etc/passwd", "modeling_evil.py", ".hidden.json", "", None, 3]
)
async def test_only_what_was_offered_is_given(wish: object, tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    waiting = await scene.begin()
    joiner = scene.joiner()
    await joiner.prove(scene.inviter.code)
    await joiner.handover()
    assert joiner._conversation is not None
    await joiner._conversation.say({"get": wish, "offset": 0})
    assert "not offered" in (await joiner._conversation.hear())["error"]
    await joiner.close()
    waiting.cancel()


@pytest.mark.parametrize(
    "name", ["../x.json", "/x.json", "a/b.json", ".x.json", "", "x\n.json", "a" * 200, "..", "x\x00.json"]
)
def test_no_name_leads_out_of_the_joiners_directory(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        ModelFile(name=name, size=1, sha256="0" * 64)


def test_a_part_longer_than_the_file_is_begun_anew(tmp_path: Path) -> None:
    file = ModelFile(name="x.json", size=2, sha256="0" * 64)
    receiving = Receiving(tmp_path, (file,))
    receiving.part(file).write_bytes(b"123")
    assert receiving.taken(file) == 0


def test_a_code_is_taken_as_people_type_it() -> None:
    code = new_code()
    assert re.fullmatch(r"([bdfghjklmnprstvz][aiou][bdfghjklmnprstvz][aiou][bdfghjklmnprstvz]-?){3}", code)
    for written in (code.upper(), code.replace("-", " "), code.replace("-", ""), f"  {code}\n"):
        assert typed(written) == code


def test_syllables_are_those_of_the_publication() -> None:
    """127.0.0.1 is lusab-babad (arXiv 0901.4016)."""
    assert in_syllables(bytes([127, 0, 0, 1])) == "lusab-babad"


def test_only_the_same_code_and_the_same_ends_agree() -> None:
    def agree(code: str, certificate: bytes, key: bytes) -> tuple[Agreed, Agreed]:
        joiner, inviter = Pake("code", True, b"certificate", b"key"), Pake(code, False, certificate, key)
        return joiner.finish(inviter.message), inviter.finish(joiner.message)

    mine, theirs = agree("code", b"certificate", b"key")
    theirs.check("joiner", mine.proof("joiner"))
    assert mine.words == theirs.words
    assert mine.proof("joiner") != mine.proof("inviter")
    for different in (
        ("other", b"certificate", b"key"),
        ("code", b"other", b"key"),
        ("code", b"certificate", b"other"),
    ):
        mine, theirs = agree(*different)
        with pytest.raises(WrongCodeError):
            theirs.check("joiner", mine.proof("joiner"))
        assert mine.words != theirs.words


@pytest.mark.parametrize("message", [b"", b"A", b"B" * 33, b"A" + b"\xff" * 32, b"B\x01" + b"\0" * 31])
def test_what_is_no_message_of_the_exchange_is_a_failed_try(message: bytes) -> None:
    with pytest.raises(WrongCodeError):
        Pake("code", True, b"c", b"k").finish(message)
