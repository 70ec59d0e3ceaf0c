"""Bytes by kind, counted as they pass and foretold in closed form.

The closed forms are exact: they equal what messages really built add up to, for every moment rule and
encoding, so what a run will cost is known before it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from decad.core.coding import CHUNK_ELEMENTS, is_narrow
from decad.core.layout import cut
from decad.core.section import Section
from decad.wire import messages


@dataclass
class ByteCounter:
    """What went one way, in bytes of application messages; seals (9 a message), TLS and HTTP/2 framing come on top.

    Payloads count by section; everything else of block messages, and control messages, is overhead; what goes
    over the fetch channel counts whole as fetch.
    """

    block: int = 0
    first_moment: int = 0
    second_moment: int = 0
    overhead: int = 0
    fetch: int = 0
    adapters: int = 0
    _parent: ByteCounter | None = field(default=None, repr=False, compare=False)
    _watch: Callable[[int], None] | None = field(default=None, repr=False, compare=False)

    def child(self, watch: Callable[[int], None]) -> ByteCounter:
        """A counter of its own (one neighbour's) that also adds to this; ``watch`` gets every size."""
        return ByteCounter(_parent=self, _watch=watch)

    def count(self, total: int, payload: int = 0, section: Section = Section.BLOCK) -> None:
        """A message of ``total`` bytes, of which ``payload`` are values of ``section``."""
        match section:
            case Section.BLOCK:
                self.block += payload
            case Section.FIRST:
                self.first_moment += payload
            case Section.SECOND:
                self.second_moment += payload
            case Section.ADAPTERS:
                self.adapters += payload
        self.overhead += total - payload
        if self._parent is not None:
            self._parent.count(total, payload, section)
        if self._watch is not None:
            self._watch(total)

    def count_fetch(self, total: int) -> None:
        """A message of ``total`` bytes on the fetch channel."""
        self.fetch += total
        if self._parent is not None:
            self._parent.count_fetch(total)
        if self._watch is not None:
            self._watch(total)

    @property
    def total(self) -> int:
        """All bytes."""
        moments = self.first_moment + self.second_moment
        return self.block + moments + self.adapters + self.overhead + self.fetch


@dataclass
class Traffic:
    """What one peer sent and received, all links together."""

    sent: ByteCounter = field(default_factory=ByteCounter)
    received: ByteCounter = field(default_factory=ByteCounter)


def value_bytes(sizes: Mapping[Section, int], section: Section, encoding: str, full: bool = False) -> int:
    """Bytes of one value of ``section``: 2 where bf16-delta sends bf16 (not row means), else 4."""
    return 2 if encoding == "bf16-delta" and not full and is_narrow(section, sizes) else 4


def payload_bytes(sizes: Mapping[Section, int], encoding: str, full: bool = False) -> dict[Section, int]:
    """Payload of one step's message to one neighbour, by section.

    ``sizes``: elements by section, BLOCK included (the moment rule's ``sections`` gives the rest);
    ``full``: a message that holds the public copy in fp32 rather than changes.
    """
    return {s: n * value_bytes(sizes, s, encoding, full) for s, n in sizes.items()}


def overhead_bytes(header: messages.BlockHeader, encoding: str) -> int:
    """What ``header`` and the chunks it announces cost above their payload, in bytes."""
    sizes = dict(header.extents)
    return _header_bytes(header) + sum(
        _chunk_overhead(index, (stop - start) * value_bytes(sizes, section, encoding, header.full))
        for section, index, start, stop in cut(sizes, CHUNK_ELEMENTS[encoding])
    )


def _chunk_overhead(index: int, payload: int) -> int:
    """section (2 bytes), index, payload's tag and length; then the envelope's tag and length."""
    place = 2 + 1 + _varint_bytes(index) + 1 + _varint_bytes(payload)
    return 1 + _varint_bytes(place + payload) + place


def _header_bytes(header: messages.BlockHeader) -> int:
    """Fields with their tags, none where the value is 0, as proto3 writes them; then tag and length."""
    numbers = (header.step, header.block, header.degree, header.sequence, header.updates, header.chunks)
    body = sum(_field_bytes(n) for n in numbers) + (9 if header.run else 0) + (2 if header.full else 0)
    body += 5 if header.compute_us else 0
    for section, elements in header.extents:
        body += 2 + _field_bytes(section) + _field_bytes(elements)
    return 1 + _varint_bytes(body) + body


def _field_bytes(value: int) -> int:
    return 1 + _varint_bytes(value) if value else 0


def _varint_bytes(value: int) -> int:
    return max(1, -(-value.bit_length() // 7))
