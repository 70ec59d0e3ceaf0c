from __future__ import annotations

import struct

import pytest
import torch
from torch import Tensor

from decad.core.coding import CHUNK_ELEMENTS, Bf16DeltaDecoder, Decoder, Encoder, decoder, encoder
from decad.core.layout import cut
from decad.core.section import Section
from decad.errors import ConfigError, PoisonError, ProtocolError

BLOCK, FIRST, SECOND, ADAPTERS = Section
ENCODINGS = sorted(CHUNK_ELEMENTS)


def pair(encoding: str, sizes: dict[Section, int]) -> tuple[Encoder, Decoder]:
    """Both after a first message, number 0, of zeros."""
    source, sink = encoder(encoding), decoder(encoding, sizes)
    source.encode({section: torch.zeros(n) for section, n in sizes.items()})
    transmit(source, sink, sizes, True)
    return source, sink


def transmit(source: Encoder, sink: Decoder, sizes: dict[Section, int], full: bool) -> dict[Section, Tensor]:
    """One whole message; what each section decodes to."""
    assert sink.begin(source.sequence, full)
    decoded: dict[Section, list[Tensor]] = {s: [] for s in sizes}
    for section, chunk, _, _ in cut(sizes, source.chunk_elements):
        decoded[section].append(
            sink.decode(section, chunk, bytes(source.payload(section, chunk, full))).clone()
        )
    sink.end()
    return {s: torch.cat(parts) for s, parts in decoded.items()}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("full", [False, True])
def test_what_is_decoded_is_the_public_copy(encoding: str, full: bool) -> None:
    whole = CHUNK_ELEMENTS[encoding] + 5
    sizes = {BLOCK: whole, FIRST: whole, SECOND: 7, ADAPTERS: 9}
    source, sink = pair(encoding, sizes)
    source.encode({s: torch.rand(n) for s, n in sizes.items()})
    decoded = transmit(source, sink, sizes, full)
    for section in sizes:
        assert torch.equal(decoded[section], source.public[section].float())


@pytest.mark.parametrize("elements", [9, 50])
def test_adapters_travel_as_changes_whatever_their_number(elements: int) -> None:
    sizes = {BLOCK: 50, ADAPTERS: elements}
    source, sink = pair("bf16-delta", sizes)
    wanted = torch.rand(elements)
    for _ in range(3):  # what is rounded away travels with the next one
        source.encode({BLOCK: torch.rand(50), ADAPTERS: wanted})
        assert source.payload(ADAPTERS, 0, False).nbytes == 2 * elements
        decoded = transmit(source, sink, sizes, False)
    assert torch.equal(decoded[ADAPTERS], source.public[ADAPTERS])
    assert (decoded[ADAPTERS] - wanted).abs().max() < 1e-6


def test_a_chunk_of_one_message_is_a_mebibyte() -> None:
    for encoding in ENCODINGS:
        source = encoder(encoding, {BLOCK: torch.zeros(1 << 20)})
        source.encode({BLOCK: torch.zeros(1 << 20)})
        assert source.payload(BLOCK, 0, False).nbytes == 1 << 20


def test_fp32_copies_nothing() -> None:
    values = torch.zeros(4)
    source = encoder("fp32")
    source.encode({BLOCK: values})
    payload = source.payload(BLOCK, 0, True)
    values.fill_(1.0)
    assert bytes(payload) == struct.pack("<4f", 1, 1, 1, 1)
    assert source.public[BLOCK] is values


def test_bf16_changes_leave_the_values_and_the_saved_copy_alone() -> None:
    saved, values = torch.zeros(3), torch.rand(3)
    before = values.clone()
    encoder("bf16-delta", {BLOCK: saved}).encode({BLOCK: values})
    assert torch.equal(values, before)
    assert not saved.any()


def test_bf16_moments_travel_in_two_bytes_and_row_means_in_four() -> None:
    source = encoder("bf16-delta", {BLOCK: torch.zeros(10)})
    source.encode({BLOCK: torch.rand(10), FIRST: torch.rand(10), SECOND: torch.rand(3)})
    assert [source.payload(s, 0, False).nbytes for s in (BLOCK, FIRST, SECOND)] == [20, 20, 12]
    assert [source.payload(s, 0, True).nbytes for s in (BLOCK, FIRST, SECOND)] == [40, 40, 12]


def test_error_feedback_sends_later_what_rounding_lost() -> None:
    source = encoder("bf16-delta", {BLOCK: torch.zeros(1000)})
    values = torch.rand(1000)
    lost = []
    for _ in range(3):
        source.encode({BLOCK: values})
        lost.append(float((source.public[BLOCK] - values).abs().max()))
    assert lost[0] > 1e-4
    assert lost[2] < 1e-7


def test_the_sequence_counts_messages_from_zero() -> None:
    for encoding in ENCODINGS:
        source = encoder(encoding, {BLOCK: torch.zeros(1)})
        assert source.sequence == -1
        source.encode({BLOCK: torch.zeros(1)})
        assert source.sequence == 0


def test_a_resumed_encoder_continues_bit_for_bit() -> None:
    whole, values = encoder("bf16-delta", {BLOCK: torch.zeros(50)}), [torch.rand(50) for _ in range(4)]
    for value in values[:2]:
        whole.encode({BLOCK: value})
    resumed = encoder("bf16-delta", {BLOCK: whole.public[BLOCK]})
    resumed.sequence = whole.sequence
    for source in (whole, resumed):
        for value in values[2:]:
            source.encode({BLOCK: value})
    assert resumed.sequence == whole.sequence
    assert torch.equal(resumed.public[BLOCK], whole.public[BLOCK])
    assert bytes(resumed.payload(BLOCK, 0, False)) == bytes(whole.payload(BLOCK, 0, False))


def test_changes_after_a_missed_message_are_not_accepted() -> None:
    _, sink = pair("bf16-delta", {BLOCK: 2})
    assert not sink.begin(2, False)


def test_changes_after_an_unfinished_message_are_not_accepted() -> None:
    source, sink = pair("bf16-delta", {BLOCK: 2})
    source.encode({BLOCK: torch.ones(2)})
    assert sink.begin(1, False)
    assert not sink.begin(2, False)
    assert sink.begin(2, True)


def test_a_message_is_not_applied_twice() -> None:
    source, sink = pair("bf16-delta", {BLOCK: 2})
    source.encode({BLOCK: torch.ones(2)})
    transmit(source, sink, {BLOCK: 2}, False)
    assert not sink.begin(1, False)


def test_fp32_has_no_gaps() -> None:
    _, sink = pair("fp32", {BLOCK: 2})
    assert sink.begin(17, True)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("count", [0, 3, 5])
def test_a_payload_of_the_wrong_size_is_poison(encoding: str, count: int) -> None:
    _, sink = pair(encoding, {BLOCK: 4})
    sink.begin(1, False)
    with pytest.raises(PoisonError, match="bytes"):
        sink.decode(BLOCK, 0, bytes(count))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_poison(encoding: str, full: bool, value: float) -> None:
    for section in (BLOCK, FIRST):
        source, sink = pair(encoding, {BLOCK: 3, FIRST: 3})
        values = {s: torch.tensor([1.0, value if s is section else 1.0, 1.0]) for s in (BLOCK, FIRST)}
        source.encode(values)
        sink.begin(1, full)
        with pytest.raises(PoisonError, match="not finite"):
            sink.decode(section, 0, source.payload(section, 0, full))


def test_finite_changes_that_add_up_to_infinity_are_poison() -> None:
    _, sink = pair("bf16-delta", {BLOCK: 1})
    huge = bytes(torch.tensor([3e38], dtype=torch.bfloat16).view(torch.uint8).tolist())
    sink.begin(1, False)
    sink.decode(BLOCK, 0, huge)
    sink.end()
    sink.begin(2, False)
    with pytest.raises(PoisonError, match="not finite"):
        sink.decode(BLOCK, 0, huge)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_negative_second_moment_is_poison(encoding: str) -> None:
    _, sink = pair(encoding, {BLOCK: 4, SECOND: 1})
    sink.begin(0, True)
    with pytest.raises(PoisonError, match="negative"):
        sink.decode(SECOND, 0, struct.pack("<f", -1e-20))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_chunk_counts_once_in_a_message(encoding: str) -> None:
    source, sink = pair(encoding, {BLOCK: 2})
    source.encode({BLOCK: torch.ones(2)})
    sink.begin(0, True)
    sink.decode(BLOCK, 0, source.payload(BLOCK, 0, True))
    for section, chunk in ((BLOCK, 0), (BLOCK, 1), (SECOND, 0)):
        with pytest.raises(ProtocolError, match="not due"):
            sink.decode(section, chunk, source.payload(BLOCK, 0, True))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_message_cannot_end_before_its_last_chunk(encoding: str) -> None:
    _, sink = pair(encoding, {BLOCK: 2})
    sink.begin(0, True)
    with pytest.raises(ProtocolError, match="1 chunks missing"):
        sink.end()


def test_a_first_message_of_changes_is_a_gap() -> None:
    assert not Bf16DeltaDecoder({BLOCK: 1}).begin(0, False)


def test_unknown_encodings_are_refused() -> None:
    for make in (
        lambda: encoder("int3"),
        lambda: decoder("int3", {BLOCK: 1}),
    ):
        with pytest.raises(ConfigError, match="Use one of fp32, bf16-delta"):
            make()
