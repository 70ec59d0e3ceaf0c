"""The seal: what comes is what was sent, in its order, or the link ends."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decad._proto import peer_pb2 as pb
from decad.errors import SealError
from decad.wire.sealed import SEAL_BYTES, SealedChannel

MESSAGES = [b"", b"one", b"two", b"two"]


class Line:
    """A channel to oneself, whose messages can be tampered with under way."""

    def __init__(self) -> None:
        self.under_way: list[bytes] = []

    async def send(self, message: bytes) -> None:
        self.under_way.append(message)

    async def receive(self) -> bytes:
        return self.under_way.pop(0)


async def sent(*messages: bytes) -> Line:
    line = Line()
    channel = SealedChannel(line, "peer:1")
    for message in messages:
        await channel.send(message)
    return line


async def received(line: Line) -> list[bytes]:
    channel = SealedChannel(line, "peer:1")
    return [bytes(await channel.receive()) for _ in list(line.under_way)]


async def test_what_comes_is_what_was_sent() -> None:
    assert await received(await sent(*MESSAGES)) == MESSAGES


@given(st.binary(max_size=40), st.data())
def test_one_flipped_bit_breaks_the_seal(message: bytes, data: st.DataObject) -> None:
    async def flip() -> None:
        line = await sent(message)
        damaged = bytearray(line.under_way[0])
        bit = data.draw(st.integers(0, 8 * len(damaged) - 1))
        damaged[bit // 8] ^= 1 << bit % 8
        line.under_way[0] = bytes(damaged)
        with pytest.raises(SealError, match="message 0 from peer:1 arrived damaged"):
            await received(line)

    asyncio.run(flip())


@given(st.binary(max_size=60))
def test_bytes_of_strangers_break_the_seal(message: bytes) -> None:
    async def read() -> None:
        line = Line()
        line.under_way.append(message)
        with pytest.raises(SealError):
            await received(line)

    asyncio.run(read())


@pytest.mark.parametrize("order", [(1,), (0, 2), (0, 0), (0, 1, 1), (0, 2, 1), (0, 1, 3)])
async def test_lost_repeated_and_overtaken_messages_break_the_seal(order: tuple[int, ...]) -> None:
    line = await sent(*MESSAGES)
    line.under_way = [line.under_way[number] for number in order]
    with pytest.raises(SealError):
        await received(line)


async def test_a_sealed_message_is_protobuf_whose_seal_the_generated_class_reads() -> None:
    message = pb.ControlMessage(beacon=pb.Beacon(sequence=3, stage=pb.STAGE_TRAINING))
    (sealed,) = (await sent(message.SerializeToString())).under_way
    read = pb.ControlMessage.FromString(sealed)
    assert read.seal == int.from_bytes(sealed[-SEAL_BYTES + 1 :], "little")
    read.ClearField("seal")
    assert read == message
