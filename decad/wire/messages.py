"""Messages as bytes: the protobuf of peer.proto, with the bulky ones built and read by hand.

A chunk is ``prefix + payload``: tag and length of the envelope, section, index, then the payload as the
last field. One join builds it (the only copy) and reading gives a view of the payload. Small messages go
through the generated classes. Whatever a peer sends, reading it raises ProtocolError or nothing: an envelope
holds one part, a chunk's known fields come at most once in any order, unknown ones are skipped.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

import torch
from google.protobuf.message import DecodeError, Message
from torch import Tensor

import decad.core.coding  # noqa: F401  (it has torch's once-a-process warning on read-only buffers out of the way)
from decad._proto import peer_pb2 as pb
from decad.core.constants import MAX_STEP
from decad.core.section import Section
from decad.errors import ProtocolError
from decad.wire.limits import (
    MAX_CHUNK_FIELDS,
    MAX_CONTROL_BYTES,
    MAX_FETCH_BYTES,
    MAX_HEADER_BYTES,
    MAX_VERDICTS,
    MAX_VIEW,
)
from decad.wire.transport import Buffer

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_UINT32_MAX = 2**32 - 1
_PAYLOAD = 15
_PAYLOAD_TAG = bytes([_PAYLOAD << 3 | _BYTES])


class BlockHeader(NamedTuple):
    """The fields of peer.proto's BlockHeader; ``extents`` are (section, elements), sections rising."""

    run: int
    step: int
    block: int
    degree: int
    sequence: int
    full: bool
    updates: int
    chunks: int
    extents: tuple[tuple[Section, int], ...]
    compute_us: int = 0


@dataclass(frozen=True, slots=True)
class BlockChunk:
    """The fields of peer.proto's BlockChunk; ``payload`` is a read-only view of the message's bytes."""

    section: Section
    index: int
    payload: memoryview


@dataclass(frozen=True, slots=True)
class FetchChunk:
    """The fields of peer.proto's FetchChunk; ``payload`` is a read-only view of the message's bytes."""

    index: int
    payload: memoryview


FetchPart: TypeAlias = FetchChunk | pb.FetchMessage
"""A chunk of a block, or one of the small messages around it (never a FetchMessage that holds a chunk)."""


def header(fields: BlockHeader) -> bytes:
    """A BlockMessage that holds a header."""
    extents = [pb.BlockHeader.Extent(section=_WIRE_SECTION[s], elements=n) for s, n in fields.extents]
    built = pb.BlockHeader(**{**fields._asdict(), "extents": extents})
    return pb.BlockMessage(header=built).SerializeToString()


def chunk(section: Section, index: int, payload: memoryview) -> bytes:
    """A BlockMessage that holds a chunk; ``payload``: C-contiguous, copied once."""
    place = b"\x08%c\x10%b" % (section, _varint(index))
    return _with_payload(pb.BlockMessage.CHUNK_FIELD_NUMBER, place, payload)


def fetch_chunk(index: int, payload: memoryview) -> bytes:
    """A FetchMessage that holds a chunk; ``payload``: C-contiguous, copied once."""
    return _with_payload(pb.FetchMessage.CHUNK_FIELD_NUMBER, b"\x08" + _varint(index), payload)


def parse_block(message: Buffer) -> BlockHeader | BlockChunk:
    """Read a BlockMessage. Raises ProtocolError for anything but one sound header or chunk."""
    kind, body = _envelope(message, "block message")
    if kind == pb.BlockMessage.CHUNK_FIELD_NUMBER:
        numbers, payload = _place_and_payload(body, (1, 2))
        return BlockChunk(_section(numbers[0]), numbers[1], payload)
    if kind != pb.BlockMessage.HEADER_FIELD_NUMBER or len(body) > MAX_HEADER_BYTES:
        raise ProtocolError(f"a block message holds field {kind} of {len(body)} bytes.")
    read = _parse(pb.BlockHeader(), body)
    extents = tuple((_section(extent.section), extent.elements) for extent in read.extents)
    if any(a[0] >= b[0] for a, b in itertools.pairwise(extents)):
        raise ProtocolError("a block header names its sections twice or out of order.")
    _check_step(read.step)
    return BlockHeader(
        read.run,
        read.step,
        read.block,
        read.degree,
        read.sequence,
        read.full,
        read.updates,
        read.chunks,
        extents,
        read.compute_us,
    )


def parse_fetch(message: Buffer) -> FetchPart:
    """Read a FetchMessage. Raises ProtocolError for anything but one sound part."""
    kind, body = _envelope(message, "fetch message")
    if kind == pb.FetchMessage.CHUNK_FIELD_NUMBER:
        (index,), payload = _place_and_payload(body, (1,))
        return FetchChunk(index, payload)
    if len(body) > MAX_FETCH_BYTES:
        raise ProtocolError(f"a fetch message holds field {kind} of {len(body)} bytes.")
    part = _parse(pb.FetchMessage(), message)
    if part.WhichOneof("kind") is None:
        raise ProtocolError(f"a fetch message holds field {kind}, which this version does not know.")
    _check_step(part.header.step)
    return part


def encode_control(message: pb.ControlMessage) -> bytes:
    """A ControlMessage as bytes."""
    return message.SerializeToString()


def decode_control(message: Buffer) -> pb.ControlMessage:
    """Read a ControlMessage. Raises ProtocolError for garbage, one too large, and one that holds nothing known."""
    if len(message) > MAX_CONTROL_BYTES:
        raise ProtocolError(
            f"a control message has {len(message)} bytes; at most {MAX_CONTROL_BYTES} are allowed."
        )
    read = _parse(pb.ControlMessage(), message)
    if read.WhichOneof("kind") is None:
        raise ProtocolError("a control message holds nothing that this version knows.")
    for step in (read.beacon.step, read.hello.step):
        _check_step(step)
    if len(read.view.members) > MAX_VIEW or len(read.verdicts.verdicts) > MAX_VERDICTS:
        raise ProtocolError(f"a list has more than {MAX_VIEW} entries.")
    return read


def as_tensor(payload: memoryview) -> Tensor:
    """The payload as fp32 [n] without a copy, to be read only. Raises ProtocolError for a wrong size."""
    if payload.nbytes == 0 or payload.nbytes % 4:
        raise ProtocolError(f"a payload of {payload.nbytes} bytes is not a row of fp32 values.")
    return torch.frombuffer(payload, dtype=torch.float32)


_WIRE_SECTION = {
    Section.BLOCK: pb.SECTION_BLOCK,
    Section.FIRST: pb.SECTION_FIRST,
    Section.SECOND: pb.SECTION_SECOND,
    Section.ADAPTERS: pb.SECTION_ADAPTERS,
}


def _check_step(step: int) -> None:
    if step > MAX_STEP:
        raise ProtocolError(f"a message tells step {step}; no run comes beyond {MAX_STEP}.")


_M = TypeVar("_M", bound=Message)


def _parse(into: _M, message: Buffer) -> _M:
    try:
        into.ParseFromString(bytes(message))
    except DecodeError as error:
        raise ProtocolError(f"{type(into).__name__} of {len(message)} bytes: {error}.") from None
    return into


def _with_payload(kind: int, place: bytes, payload: memoryview) -> bytes:
    place = b"%b%b%b" % (place, _PAYLOAD_TAG, _varint(payload.nbytes))
    prefix = b"%c%b%b" % (kind << 3 | _BYTES, _varint(len(place) + payload.nbytes), place)
    return b"".join((prefix, payload))


def _envelope(message: Buffer, what: str) -> tuple[int, memoryview]:
    """The one member of a oneof: (field number, its bytes)."""
    found = list(_fields(memoryview(message)))
    if len(found) != 1 or isinstance(found[0][1], int):
        raise ProtocolError(f"a {what} must hold exactly one part; this one has {len(found)} fields.")
    return found[0][0], found[0][1]


def _place_and_payload(body: memoryview, numbers: tuple[int, ...]) -> tuple[list[int], memoryview]:
    """The uint32 fields ``numbers`` (0 if absent, as protobuf has it) and the payload of a chunk."""
    seen: dict[int, int | memoryview] = {}
    for number, value in _fields(body):
        if number in seen:
            raise ProtocolError(f"a chunk has field {number} twice.")
        if number == _PAYLOAD or number in numbers:
            seen[number] = value
    payload = seen.get(_PAYLOAD, body[:0])
    place = [seen.get(number, 0) for number in numbers]
    if isinstance(payload, int):
        raise ProtocolError("a chunk's payload is a number.")
    checked = [number for number in place if isinstance(number, int) and number <= _UINT32_MAX]
    if len(checked) != len(place):
        raise ProtocolError("a chunk's place is not a number of 32 bits.")
    return checked, payload


def _section(number: int) -> Section:
    try:
        return Section(number)
    except ValueError:
        raise ProtocolError(f"section {number} does not exist.") from None


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of every field; a varint is an int, the others are views."""
    at = 0
    for _ in range(MAX_CHUNK_FIELDS):
        if at == len(data):
            return
        tag, at = _read_varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise ProtocolError("a message has a field 0.")
        if wire_type == _VARINT:
            value, at = _read_varint(data, at)
            yield number, value
            continue
        if wire_type == _BYTES:
            length, at = _read_varint(data, at)
        elif wire_type in (_FIXED64, _FIXED32):
            length = 8 if wire_type == _FIXED64 else 4
        else:
            raise ProtocolError(f"field {number} has wire type {wire_type}, which proto3 does not use.")
        if length > len(data) - at:
            raise ProtocolError(f"field {number} has {length} bytes, {len(data) - at} are left.")
        yield number, data[at : at + length]
        at += length
    raise ProtocolError(f"a message has more than {MAX_CHUNK_FIELDS - 1} fields.")


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """(value, where the next byte is). Raises ProtocolError when it does not end or exceeds 64 bits."""
    value = 0
    for shift in range(0, 70, 7):
        if at == len(data):
            raise ProtocolError("a message ends in the middle of a number.")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, at
    raise ProtocolError("a number in a message exceeds 64 bits.")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
