"""The hand-built messages are the protobuf of peer.proto, both ways; no bytes at all break the readers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decad._proto import peer_pb2 as pb
from decad.core.constants import MAX_STEP
from decad.core.section import Section
from decad.errors import ProtocolError
from decad.wire import messages
from decad.wire.messages import BlockChunk, BlockHeader, FetchChunk

uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
step = st.integers(0, MAX_STEP)
sections = st.sampled_from(Section)
extents = st.dictionaries(sections, uint64).map(lambda sizes: tuple(sorted(sizes.items())))
headers = st.builds(
    BlockHeader,
    run=uint64,
    step=step,
    block=uint32,
    degree=uint32,
    sequence=uint64,
    full=st.booleans(),
    updates=uint32,
    chunks=uint32,
    extents=extents,
    compute_us=uint32,
)
wire_section = {
    Section.BLOCK: pb.SECTION_BLOCK,
    Section.FIRST: pb.SECTION_FIRST,
    Section.SECOND: pb.SECTION_SECOND,
    Section.ADAPTERS: pb.SECTION_ADAPTERS,
}


def generated(header: BlockHeader) -> pb.BlockHeader:
    return pb.BlockHeader(
        run=header.run,
        step=header.step,
        block=header.block,
        degree=header.degree,
        sequence=header.sequence,
        full=header.full,
        updates=header.updates,
        chunks=header.chunks,
        extents=[pb.BlockHeader.Extent(section=wire_section[s], elements=n) for s, n in header.extents],
        compute_us=header.compute_us,
    )


@given(headers)
def test_a_header_is_what_the_generated_class_writes_and_reads(header: BlockHeader) -> None:
    by_class = pb.BlockMessage(header=generated(header))
    assert pb.BlockMessage.FromString(messages.header(header)) == by_class
    assert messages.parse_block(by_class.SerializeToString()) == header


@given(sections, uint32, st.binary(max_size=1000))
def test_a_chunk_reads_equal_by_the_generated_class(section: Section, index: int, payload: bytes) -> None:
    by_hand = pb.BlockMessage.FromString(messages.chunk(section, index, memoryview(payload)))
    chunk = pb.BlockChunk(section=wire_section[section], index=index, payload=payload)
    assert by_hand == pb.BlockMessage(chunk=chunk)


@given(sections, uint32, st.binary(max_size=1000))
def test_the_generated_class_writes_chunks_that_are_read(
    section: Section, index: int, payload: bytes
) -> None:
    chunk = pb.BlockChunk(section=wire_section[section], index=index, payload=payload)
    by_hand = messages.parse_block(pb.BlockMessage(chunk=chunk).SerializeToString())
    assert by_hand == BlockChunk(section, index, memoryview(payload))


@given(st.permutations([b"\x08\x02", b"\x10\x85\x01", b"\x7a\x03abc", b"\x48\x07", b"\xa2\x06\x01x"]))
def test_fields_come_in_any_order(fields: list[bytes]) -> None:
    body = b"".join(fields)
    assert messages.parse_block(b"\x12" + bytes([len(body)]) + body) == BlockChunk(
        Section.SECOND, 133, memoryview(b"abc")
    )


@given(uint32, st.binary(max_size=1000))
def test_a_fetch_chunk_is_what_the_generated_class_writes_and_reads(index: int, payload: bytes) -> None:
    by_class = pb.FetchMessage(chunk=pb.FetchChunk(index=index, payload=payload))
    assert pb.FetchMessage.FromString(messages.fetch_chunk(index, memoryview(payload))) == by_class
    assert messages.parse_fetch(by_class.SerializeToString()) == FetchChunk(index, memoryview(payload))


@given(
    st.one_of(
        st.builds(pb.FetchRequest, block=uint32, have=st.lists(st.binary(max_size=32), max_size=5)).map(
            lambda part: pb.FetchMessage(request=part)
        ),
        st.builds(
            pb.FetchHeader,
            block=uint32,
            step=step,
            active=st.booleans(),
            elements=uint64,
            sha256=st.lists(st.binary(max_size=32), max_size=5),
        ).map(lambda part: pb.FetchMessage(header=part)),
        st.builds(pb.FetchFailure, block=uint32, reason=st.text(max_size=50)).map(
            lambda part: pb.FetchMessage(failure=part)
        ),
    )
)
def test_small_fetch_messages_are_read(part: pb.FetchMessage) -> None:
    assert messages.parse_fetch(part.SerializeToString()) == part


readers = pytest.mark.parametrize(
    "read", [messages.parse_block, messages.parse_fetch, messages.decode_control], ids=lambda f: f.__name__
)


@readers
@given(message=st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_protocol_errors(
    read: Callable[[bytes], object], message: bytes
) -> None:
    with contextlib.suppress(ProtocolError):
        read(message)


@readers
@given(header=headers, payload=st.binary(max_size=50), data=st.data())
def test_damaged_messages_raise_nothing_but_protocol_errors(
    read: Callable[[bytes], object], header: BlockHeader, payload: bytes, data: st.DataObject
) -> None:
    sound = data.draw(
        st.sampled_from(
            [
                messages.header(header),
                messages.chunk(Section.FIRST, 5, memoryview(payload)),
                messages.fetch_chunk(5, memoryview(payload)),
            ]
        )
    )
    at = data.draw(st.integers(0, len(sound) - 1))
    damaged = sound[:at] + data.draw(st.binary(max_size=3)) + sound[at + data.draw(st.integers(0, 3)) :]
    with contextlib.suppress(ProtocolError):
        read(damaged)
