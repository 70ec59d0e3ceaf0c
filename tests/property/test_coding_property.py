"""A lossy channel and bf16 changes: the two public copies agree bit for bit after every accepted message."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decad.core.coding import CHUNK_ELEMENTS, Bf16DeltaDecoder, Bf16DeltaEncoder
from decad.core.layout import cut
from decad.core.section import Section

Fate = Literal["whole", "lost", "cut short", "twice"]
FATES: list[Fate] = ["whole", "lost", "cut short", "twice"]
SIZES = {Section.BLOCK: 10, Section.FIRST: 10, Section.SECOND: 3}


def deliver(source: Bf16DeltaEncoder, sink: Bf16DeltaDecoder, full: bool, chunks: int) -> bool:
    """The first ``chunks`` chunks of a message; False: the receiver has to ask."""
    if not sink.begin(source.sequence, full):
        return False
    pieces = cut(SIZES, source.chunk_elements)
    for section, chunk, start, stop in pieces[:chunks]:
        values = sink.decode(section, chunk, bytes(source.payload(section, chunk, full)))
        assert torch.equal(values, source.public[section][start:stop].float())
    if chunks >= len(pieces):
        sink.end()
    return True


@settings(deadline=None)
@given(st.lists(st.sampled_from(FATES), max_size=30), st.integers(0, 2**31), st.floats(1e-7, 10))
def test_the_public_copies_agree_after_every_accepted_message(
    fates: list[Fate], seed: int, size: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CHUNK_ELEMENTS, "bf16-delta", 4)
        random = torch.Generator().manual_seed(seed)
        reference = torch.randn(SIZES[Section.BLOCK], generator=random)
        source, sink = Bf16DeltaEncoder({}), Bf16DeltaDecoder(SIZES)
        theta, whole, gap = reference.clone(), len(cut(SIZES, 4)), True
        for fate in fates:
            theta += size * torch.randn(theta.numel(), generator=random)
            values = {s: torch.rand(n, generator=random) for s, n in SIZES.items()}
            source.encode(values | {Section.BLOCK: theta})
            if fate == "lost":
                gap = True
                continue
            accepted = deliver(source, sink, False, whole // 2 if fate == "cut short" else whole)
            assert accepted == (not gap)
            gap = fate == "cut short" or gap
            if gap and fate != "cut short":
                assert deliver(source, sink, True, whole)
                gap = False
            if fate == "twice":
                assert not sink.begin(source.sequence, False)
            if not gap:
                assert sink.sequence == source.sequence
                assert torch.equal(sink.public[Section.BLOCK], source.public[Section.BLOCK])


@settings(deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-6, 1))
def test_what_is_not_yet_public_stays_below_the_rounding_of_one_change(seed: int, size: float) -> None:
    """Error feedback: however many changes, the copy is behind by one rounding of the last (2^-8 of it)."""
    random = torch.Generator().manual_seed(seed)
    theta = torch.zeros(50)
    source = Bf16DeltaEncoder({Section.BLOCK: theta})
    for _ in range(30):
        theta = theta + size * torch.randn(50, generator=random)
        change = theta - source.public[Section.BLOCK]
        source.encode({Section.BLOCK: theta})
        behind = theta - source.public[Section.BLOCK]
        assert bool((behind.abs() <= change.abs() / 256 + 1e-6 * theta.abs()).all())
