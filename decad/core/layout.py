"""How one step's message is cut into chunks: the sections in order, each in pieces of one size.

Sender and receiver derive the same layout from the block, the moment rule and the encoding, so a header can
be checked against it and a chunk's place is known before it comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from decad.core.section import Section


class Piece(NamedTuple):
    """One chunk: its section, its number there, and the elements [start, stop) that it holds."""

    section: Section
    chunk: int
    start: int
    stop: int


def cut(sizes: Mapping[Section, int], chunk_elements: int) -> tuple[Piece, ...]:
    """All chunks of a message whose sections have ``sizes`` elements."""
    return tuple(
        Piece(section, index, start, min(start + chunk_elements, sizes[section]))
        for section in sorted(sizes)
        for index, start in enumerate(range(0, sizes[section], chunk_elements))
    )
