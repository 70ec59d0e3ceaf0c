"""What takes in bytes of others, each as a function of bytes.

It returns, or raises what it is said to raise; anything else is a fault. `tests/fuzz/run.py` looks for inputs with
atheris, `tests/property/test_fuzz.py` tries those that were kept, and some by hypothesis.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import torch
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from decad._proto import peer_pb2 as pb
from decad.config import RunSpec, split_address
from decad.core.clipping import absurd_beyond
from decad.core.coding import decoder, encoder
from decad.core.memory import bytes_of
from decad.core.overlay import neighbours
from decad.core.schedule import learning_rate
from decad.core.section import Section
from decad.errors import ConfigError, PeerError
from decad.membership.agreement import parse_set_fields, parse_spec
from decad.membership.announcement import Recognition, read_announcement
from decad.membership.identity import Identity
from decad.trust import proof
from decad.trust.authority import Authority
from decad.trust.code import typed
from decad.trust.conversation import Conversation, field
from decad.trust.handover import Handover
from decad.trust.pake import Pake
from decad.trust.roster import pronounce
from decad.trust.secret import from_text, new_secret, to_text
from decad.wire import messages
from decad.wire.reasons import printable
from decad.wire.tls import Statement

ELEMENTS = 24
SIZES = {Section.BLOCK: ELEMENTS, Section.SECOND: 4}


class Target(NamedTuple):
    """``allowed``: what it may raise; ``seeds``: sound inputs to begin with."""

    take: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...] = ()

    def __call__(self, data: bytes) -> None:
        """Raises whatever it should not."""
        with suppress(*self.allowed):
            self.take(data)


def _control(data: bytes) -> None:
    """As a session and an admission take it: decoded, then what hangs on its fields."""
    read = messages.decode_control(data)
    if read.HasField("hello"):
        printable(read.hello.name)
        spec = parse_spec(read.hello.spec)
        parse_set_fields(read.hello.set_fields)
        _uses(spec)
    for member in read.view.members:
        with suppress(ValueError):
            split_address(member.address)
    for verdict in read.verdicts.verdicts:
        with suppress(proof.NotProvedError):
            proof.signer_of(Statement(verdict.key, verdict.signature), [b"x"])
    printable(read.goodbye.reason)


def _uses(spec: RunSpec) -> None:
    """What a run does with a spec that it adopted."""
    neighbours(spec.overlay, {"a" * 64, "b" * 64, "c" * 64}, "a" * 64)
    learning_rate(spec.schedule, spec.lr, spec.inner_steps, spec.warmup)(7)


def _decode(encoding: str) -> Callable[[bytes], None]:
    """A neighbour's chunks of one message after another: first byte section, second whether it is full."""

    def take(data: bytes) -> None:
        sink = decoder(encoding, SIZES, absurd_beyond({Section.BLOCK: 1.0}))
        for sequence in range(3):
            sink.begin(sequence, full=bool(data[1:2] == b"\1") or not sequence)
            for section, payload in ((Section(data[0] % 3), data[2:]), (Section.SECOND, data[2 : 2 + 16])):
                values = sink.decode(section, 0, payload)
                assert bool(torch.isfinite(values).all()), "values that are not finite were taken"
            sink.end()

    return take


def _announced(data: bytes) -> None:
    texts = data.decode("utf-8", "replace").split("|")
    said = read_announcement(dict(zip("skr", texts, strict=False)))
    if said is not None:
        Recognition((b"k",), "run").knows(said)


def _certificate(data: bytes) -> None:
    shown = x509.load_der_x509_certificate(data)
    shown.public_key()


def _handover(data: bytes) -> None:
    given = Handover.model_validate(json.loads(data))
    given.membership()
    for file in given.model:
        assert "/" not in file.name
        assert not file.name.startswith(".")


def _statement(data: bytes) -> None:
    proof.signer_of(Statement(data[:91], data[91:]), [b"decad"])


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _controls() -> tuple[bytes, ...]:
    identity = Identity.generate()
    verdict = pronounce(identity, "a" * 64, True)
    told = pb.Verdicts.Verdict(
        peer_id=b"a" * 32,
        allowed=True,
        number=verdict.number,
        key=verdict.statement.key,
        signature=verdict.statement.signature,
    )
    spec = RunSpec(overlay="edges:a-b,b-c", schedule="cosine:100:0.1")
    kinds: list[pb.ControlMessage] = [
        pb.ControlMessage(
            hello=pb.Hello(protocol_version=1, peer_id=b"a" * 32, spec=spec.canonical(), set_fields=["lr"])
        ),
        pb.ControlMessage(beacon=pb.Beacon(sequence=1, step=7, stage=pb.Stage.ValueType(2))),
        pb.ControlMessage(
            view=pb.View(members=[pb.View.Member(peer_id=b"a" * 32, address="192.0.2.1:7700")])
        ),
        pb.ControlMessage(verdicts=pb.Verdicts(verdicts=[told])),
        pb.ControlMessage(refusal=pb.Refusal(reason="no", fields=[pb.Refusal.Field(field="lr")])),
        pb.ControlMessage(goodbye=pb.Goodbye(reason="leaves")),
    ]
    return tuple(map(messages.encode_control, kinds))


def _blocks() -> tuple[bytes, ...]:
    header = messages.BlockHeader(1, 2, 3, 2, 0, True, 1, 2, tuple(SIZES.items()), 9)
    return messages.header(header), messages.chunk(Section.BLOCK, 0, memoryview(b"\0" * 4 * ELEMENTS))


def _fetches() -> tuple[bytes, ...]:
    parts = [
        pb.FetchMessage(request=pb.FetchRequest(block=1, have=[b"a" * 32], only=[0])),
        pb.FetchMessage(header=pb.FetchHeader(block=1, step=7, elements=ELEMENTS, sha256=[b"a" * 32])),
        pb.FetchMessage(failure=pb.FetchFailure(block=1, reason="no")),
    ]
    chunk = messages.fetch_chunk(0, memoryview(b"\0" * 4 * ELEMENTS))
    return (*(part.SerializeToString() for part in parts), chunk)


def _payloads(encoding: str) -> tuple[bytes, ...]:
    source = encoder(encoding)
    source.encode({Section.BLOCK: torch.ones(ELEMENTS), Section.SECOND: torch.ones(4)})
    full = bytes(source.payload(Section.BLOCK, 0, True))
    return (
        b"\0\1" + full,
        b"\0\0" + bytes(source.payload(Section.BLOCK, 0, False)),
        b"\0\1" + bytes_of(torch.full((ELEMENTS,), 1e30)),
    )


def _statements() -> tuple[bytes, ...]:
    signed = proof.sign(Identity.generate(), [b"decad"])
    return (signed.key + signed.signature,)


def _chain() -> bytes:
    issued = Authority(new_secret()).issue(Identity.generate().key.public_key())
    return x509.load_pem_x509_certificate(issued).public_bytes(Encoding.DER)


def _spec(data: bytes) -> None:
    _uses(parse_spec(_text(data)))


def _pake(data: bytes) -> None:
    Pake("code", True, b"c", b"k").finish(data)


def _conversed(data: bytes) -> None:
    """The first message that an inviter hears."""

    async def hear() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        talk = Conversation(reader, None)  # type: ignore[arg-type]  # nothing is written
        field(await talk.hear(), "pake")

    asyncio.run(hear())


def targets() -> dict[str, Target]:
    """By name."""
    secret = to_text(new_secret())
    offered = Handover(run="r", fingerprint="f", secrets=(secret,), port=7700).model_dump_json().encode()
    coding = (PeerError, IndexError)  # of inputs too short to name a section
    return {
        "control": Target(_control, (PeerError, ConfigError), _controls()),
        "block": Target(messages.parse_block, (PeerError,), _blocks()),
        "fetch": Target(messages.parse_fetch, (PeerError,), _fetches()),
        "fp32": Target(_decode("fp32"), coding, _payloads("fp32")),
        "bf16-delta": Target(_decode("bf16-delta"), coding, _payloads("bf16-delta")),
        "spec": Target(_spec, (PeerError, ConfigError), (RunSpec().canonical().encode(),)),
        "announcement": Target(_announced, (), (b"|".join([b"0123456789abcdef"] * 3),)),
        "statement": Target(_statement, (proof.NotProvedError,), _statements()),
        "certificate": Target(_certificate, (ValueError,), (_chain(),)),
        "address": Target(lambda data: split_address(_text(data)), (ValueError,), (b"[::1]:7700", b"host:1")),
        "secret": Target(lambda data: from_text(_text(data)), (ValueError,), (secret.encode(),)),
        "code": Target(lambda data: typed(_text(data)), (), (b"lusab-babad",)),
        "pake": Target(_pake, (PeerError,), (Pake("code", False, b"c", b"k").message,)),
        "handover": Target(_handover, (ValueError, PeerError), (offered,)),
        "invite": Target(_conversed, (PeerError,), (b"\0\0\0\2{}", b'\0\0\0\x0d{"pake":"42"}')),
    }
