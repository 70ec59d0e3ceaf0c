"""Block, fetch and control messages: exact bytes, and ProtocolError for what the protocol does not allow."""

from __future__ import annotations

import pytest
import torch

from decad._proto import peer_pb2 as pb
from decad.core.section import Section
from decad.errors import ProtocolError
from decad.wire import messages
from decad.wire.messages import BlockChunk, BlockHeader, FetchChunk

HEADER = BlockHeader(
    run=2**64 - 1,
    step=7,
    block=3,
    degree=2,
    sequence=0,
    full=True,
    updates=4,
    chunks=5,
    extents=((Section.BLOCK, 10), (Section.SECOND, 3)),
)


def test_a_header_comes_back_as_it_was() -> None:
    assert messages.parse_block(messages.header(HEADER)) == HEADER


def test_a_chunk_comes_back_as_a_view_of_the_message() -> None:
    message = messages.chunk(Section.FIRST, 300, memoryview(b"payload!"))
    chunk = messages.parse_block(message)
    assert isinstance(chunk, BlockChunk)
    assert (chunk.section, chunk.index, bytes(chunk.payload)) == (Section.FIRST, 300, b"payload!")
    assert chunk.payload.obj is message


def test_the_payload_ends_the_message() -> None:
    assert messages.chunk(Section.BLOCK, 0, memoryview(b"tail")).endswith(b"tail")


def test_a_payload_of_floats_travels_by_bytes() -> None:
    values = torch.arange(5, dtype=torch.float32)
    message = messages.chunk(Section.BLOCK, 0, values.numpy().data)
    chunk = messages.parse_block(message)
    assert isinstance(chunk, BlockChunk)
    assert torch.equal(messages.as_tensor(chunk.payload), values)


def test_a_fetch_chunk_comes_back() -> None:
    part = messages.parse_fetch(messages.fetch_chunk(2**32 - 1, memoryview(b"abcd")))
    assert isinstance(part, FetchChunk)
    assert (part.index, bytes(part.payload)) == (2**32 - 1, b"abcd")


def test_small_fetch_messages_come_as_the_generated_class() -> None:
    request = pb.FetchMessage(request=pb.FetchRequest(block=4))
    assert messages.parse_fetch(request.SerializeToString()) == request


def test_unknown_fields_of_a_chunk_are_skipped() -> None:
    # Field 9 as a varint, field 10 as 8 bytes, field 11 as bytes, around a known chunk's fields.
    body = b"\x48\x05" + b"\x51" + bytes(8) + b"\x5a\x02hi" + b"\x7a\x04abcd" + b"\x10\x02"
    chunk = messages.parse_block(b"\x12" + bytes([len(body)]) + body)
    assert isinstance(chunk, BlockChunk)
    assert (chunk.section, chunk.index, bytes(chunk.payload)) == (Section.BLOCK, 2, b"abcd")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nothing at all", b""),
        ("an unknown part", b"\x1a\x00"),
        ("two parts", b"\x12\x00\x12\x00"),
        ("a part that is a number", b"\x10\x00"),
        ("a part longer than the message", b"\x12\x05a"),
        ("a length that does not end", b"\x12\xff"),
        ("a length of more than 64 bits", b"\x12" + b"\xff" * 10 + b"\x01"),
        ("a length of 2^63", b"\x12" + b"\x80" * 9 + b"\x01"),
        ("a group", b"\x13\x14"),
        ("field 0", b"\x02\x00"),
        ("a payload twice", b"\x12\x04\x7a\x00\x7a\x00"),
        ("a payload that is a number", b"\x12\x02\x78\x01"),
        ("an index that is bytes", b"\x12\x02\x12\x00"),
        ("an index of more than 32 bits", b"\x12\x07\x10\xff\xff\xff\xff\xff\x01"),
        ("section 4", b"\x12\x02\x08\x04"),
        ("a header that is garbage", b"\x0a\x02\xff\xff"),
        ("a header too long", b"\x0a\x81\x20" + bytes(4097)),
        ("a header with section 4", b"\x0a\x04\x4a\x02\x08\x04"),
        ("a header with a section twice", b"\x0a\x04\x4a\x00\x4a\x00"),
        ("more fields than any chunk has", b"\x12\x22" + b"\x48\x00" * 17),
    ],
)
def test_block_messages_that_the_protocol_does_not_allow(what: str, message: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.parse_block(message)


@pytest.mark.parametrize("message", [b"", b"\x2a\x00", b"\x0a\x01\xff", b"\x0a\x81\x20" + bytes(4097)])
def test_fetch_messages_that_the_protocol_does_not_allow(message: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.parse_fetch(message)


def test_a_control_message_comes_back() -> None:
    message = pb.ControlMessage(beacon=pb.Beacon(sequence=3, stage=pb.STAGE_TRAINING))
    assert messages.decode_control(messages.encode_control(message)) == message


@pytest.mark.parametrize("message", [b"", b"\x0a\xff", b"\x7a\x00"])
def test_control_messages_that_hold_nothing_known(message: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.decode_control(message)


def test_a_control_message_of_a_million_members_is_not_even_parsed() -> None:
    with pytest.raises(ProtocolError, match="at most"):
        messages.decode_control(encode_view(b"\x0a\x00" * (1 << 20)))


def encode_view(members: bytes) -> bytes:
    return pb.ControlMessage(view=pb.View.FromString(members)).SerializeToString()


@pytest.mark.parametrize("size", [0, 3, 5])
def test_a_payload_that_is_no_row_of_fp32(size: int) -> None:
    with pytest.raises(ProtocolError):
        messages.as_tensor(memoryview(bytes(size)))
