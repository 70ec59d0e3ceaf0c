"""The first two messages of a link: who is let in, who is refused, and what both ends are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from decad._proto import peer_pb2 as pb
from decad.config import PROTOCOL_VERSION, RunSpec
from decad.daemon import handshake
from decad.daemon.handshake import (
    DuplicateError,
    DuplicateIdentityError,
    Judge,
    MyselfError,
    RefusedError,
    shake_hands,
)
from decad.errors import LinkClosed, MismatchError, PeerError, ProtocolError
from decad.membership.agreement import Difference, Refuse, agree, parse_set_fields, parse_spec
from decad.wire.memory import MemoryNetwork, MemoryTransport
from decad.wire.messages import decode_control, encode_control
from decad.wire.transport import Link

A, B = bytes([10] * 32), bytes([11] * 32)


def hello(
    peer_id: bytes = A,
    *,
    version: int = PROTOCOL_VERSION,
    instance: int = 1,
    spec: RunSpec | None = None,
    name: str = "",
    port: int = 7700,
    host: str = "",
) -> pb.Hello:
    spec = spec or RunSpec()
    return pb.Hello(
        protocol_version=version,
        peer_id=peer_id,
        instance=instance,
        spec=spec.canonical(),
        set_fields=sorted(spec.model_fields_set),
        listen_port=port,
        listen_host=host,
        name=name,
    )


async def welcome(theirs: pb.Hello) -> list[Difference]:
    return []


def agreeing(mine: pb.Hello) -> Judge:
    """As the network judges."""

    async def judge(theirs: pb.Hello) -> list[Difference]:
        verdict = agree(
            parse_spec(mine.spec),
            parse_set_fields(mine.set_fields),
            False,
            mine.peer_id.hex(),
            parse_spec(theirs.spec),
            parse_set_fields(theirs.set_fields),
            False,
            theirs.peer_id.hex(),
        )
        return list(verdict.fields) if isinstance(verdict, Refuse) else []

    return judge


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Link, Link]]:
    network = MemoryNetwork()
    near, far = MemoryTransport(network, "near"), MemoryTransport(network, "far")
    accepted: asyncio.Queue[Link] = asyncio.Queue()
    over = asyncio.Event()

    async def on_link(link: Link) -> None:
        accepted.put_nowait(link)
        await over.wait()

    address = await far.listen("far:7700", on_link)
    yield await near.dial(address, 1), await accepted.get()
    over.set()
    await near.close()
    await far.close()


async def outcome(link: Link, mine: pb.Hello, judge: Judge) -> pb.Hello | PeerError:
    """As the network does: who is refused is hung up on."""
    try:
        async with asyncio.timeout(5):
            return await shake_hands(link, mine, judge)
    except PeerError as error:
        await link.close()
        return error


async def both(
    ends: tuple[Link, Link], a: pb.Hello, b: pb.Hello, judge_a: Judge = welcome, judge_b: Judge = welcome
) -> tuple[pb.Hello | PeerError, pb.Hello | PeerError]:
    near, far = await asyncio.gather(outcome(ends[0], a, judge_a), outcome(ends[1], b, judge_b))
    return near, far


async def test_who_agrees_learns_of_the_other(ends: tuple[Link, Link]) -> None:
    a, b = hello(A, name="anna"), hello(B, name="b-2.x")
    assert await both(ends, a, b) == (b, a)


async def test_other_settings_are_refused_at_both_ends_with_the_field_and_both_values(
    ends: tuple[Link, Link],
) -> None:
    a, b = hello(A, spec=RunSpec(lr=0.25)), hello(B, spec=RunSpec(lr=0.5))
    near, far = await both(ends, a, b, agreeing(a), agreeing(b))
    for error, mine, theirs, other in ((near, 0.25, 0.5, B), (far, 0.5, 0.25, A)):
        assert isinstance(error, MismatchError)
        assert f"lr is {mine} here and {theirs} there" in str(error)
        assert other.hex()[:8] in str(error)


async def test_an_end_that_would_have_agreed_is_told_why_not(ends: tuple[Link, Link]) -> None:
    async def strict(theirs: pb.Hello) -> list[Difference]:
        return [Difference("lr", "1", "2")]

    near, far = await both(ends, hello(A), hello(B), judge_a=strict)
    assert isinstance(near, MismatchError)
    assert isinstance(far, MismatchError)
    assert "lr is 2 here and 1 there" in str(far)
    assert A.hex()[:8] in str(far)


async def test_another_version_is_refused_at_both_ends(ends: tuple[Link, Link]) -> None:
    newer = hello(B, version=PROTOCOL_VERSION + 1)
    near, far = await both(ends, hello(A), newer)
    assert isinstance(near, MismatchError)
    assert f"protocol_version is {PROTOCOL_VERSION} here and {PROTOCOL_VERSION + 1} there" in str(near)
    assert isinstance(far, MismatchError)  # it is told, whatever it thinks of the older version
    assert f"protocol_version is {PROTOCOL_VERSION + 1} here and {PROTOCOL_VERSION} there" in str(far)


async def test_the_version_is_compared_before_anything_else_is_read(ends: tuple[Link, Link]) -> None:
    strange = pb.Hello(protocol_version=99, peer_id=b"short", spec="{", name="\x1b[2J" * 100)
    near, _ = await both(ends, hello(A), strange)
    assert isinstance(near, MismatchError)


async def test_myself(ends: tuple[Link, Link]) -> None:
    mine = hello(A)
    near, far = await both(ends, mine, mine)
    assert isinstance(near, MyselfError)
    assert isinstance(far, MyselfError)


async def test_two_daemons_with_one_identity(ends: tuple[Link, Link]) -> None:
    near, far = await both(ends, hello(A, instance=1), hello(A, instance=2))
    for error in (near, far):
        assert isinstance(error, DuplicateIdentityError)
        assert not isinstance(error, MyselfError)
        assert "uses this peer's identity" in str(error)


async def test_a_refusal_without_fields_gives_its_reason(ends: tuple[Link, Link]) -> None:
    async def duplicate(theirs: pb.Hello) -> list[Difference]:
        raise DuplicateError("there is a link \x1b[31mbetween the two already")

    near, far = await both(ends, hello(A), hello(B), judge_a=duplicate)
    assert isinstance(near, DuplicateError)
    assert isinstance(far, RefusedError)
    assert str(far) == "there is a link [31mbetween the two already"


@pytest.mark.parametrize(
    "strange",
    [
        hello(b"short"),
        hello(B, name="x" * 65),
        hello(B, name="red\x1b[31m"),
        hello(B, name="two words"),
        hello(B, port=65536),
        hello(B, host="x" * 254),
        hello(B, host="\x1b[2J"),
    ],
)
async def test_a_malformed_hello_is_not_even_judged(ends: tuple[Link, Link], strange: pb.Hello) -> None:
    async def never(theirs: pb.Hello) -> list[Difference]:
        raise AssertionError("judged")

    near, far = await both(ends, hello(A), strange, judge_a=never)
    assert isinstance(near, ProtocolError)
    assert isinstance(far, LinkClosed)


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        encode_control(pb.ControlMessage(welcome=pb.Welcome())),
        encode_control(pb.ControlMessage(beacon=pb.Beacon())),
        encode_control(pb.ControlMessage(refusal=pb.Refusal(reason="no"))),
    ],
)
async def test_anything_but_a_hello_first_is_nonsense(ends: tuple[Link, Link], first: bytes) -> None:
    await ends[1].control.send(first)
    assert isinstance(await outcome(ends[0], hello(A), welcome), ProtocolError)


async def test_a_beacon_in_the_place_of_a_welcome_is_nonsense(ends: tuple[Link, Link]) -> None:
    await ends[1].control.send(encode_control(pb.ControlMessage(hello=hello(B))))
    await ends[1].control.send(encode_control(pb.ControlMessage(beacon=pb.Beacon())))
    assert isinstance(await outcome(ends[0], hello(A), welcome), ProtocolError)


async def test_who_hangs_up(ends: tuple[Link, Link]) -> None:
    await ends[1].control.send(encode_control(pb.ControlMessage(hello=hello(B))))
    await ends[1].close()
    assert isinstance(await outcome(ends[0], hello(A), welcome), LinkClosed)


@pytest.mark.parametrize("stage", ["hello", "welcome", "deaf"])
async def test_silence_is_not_waited_out(
    ends: tuple[Link, Link], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "PATIENCE_S", 0.05)
    if stage == "deaf":  # it takes nothing in, so that not even my own Hello goes out
        for _ in range(4):
            await ends[0].control.send(b"")
    elif stage == "welcome":
        await ends[1].control.send(encode_control(pb.ControlMessage(hello=hello(B))))
    error = await outcome(ends[0], hello(A), welcome)
    assert isinstance(error, ProtocolError)
    assert "did not complete the handshake" in str(error)


async def test_what_is_said_first_is_the_hello(ends: tuple[Link, Link]) -> None:
    mine = hello(A)
    shaking = asyncio.create_task(outcome(ends[0], mine, welcome))
    assert decode_control(await ends[1].control.receive()).hello == mine
    await ends[1].close()
    await shaking
