"""How a step's message is cut into chunks."""

from __future__ import annotations

import pytest

from decad.core.layout import Piece, cut
from decad.core.section import Section

BLOCK, FIRST, SECOND = Section.BLOCK, Section.FIRST, Section.SECOND


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({BLOCK: 3}, [(BLOCK, 0, 0, 3)]),
        ({BLOCK: 4}, [(BLOCK, 0, 0, 4)]),
        ({BLOCK: 5}, [(BLOCK, 0, 0, 4), (BLOCK, 1, 4, 5)]),
        ({BLOCK: 1, SECOND: 1}, [(BLOCK, 0, 0, 1), (SECOND, 0, 0, 1)]),
        (
            {SECOND: 5, FIRST: 4, BLOCK: 1},  # in the order of the sections, whatever the mapping's
            [(BLOCK, 0, 0, 1), (FIRST, 0, 0, 4), (SECOND, 0, 0, 4), (SECOND, 1, 4, 5)],
        ),
        ({}, []),
    ],
)
def test_sections_in_order_each_in_pieces_of_one_size(
    sizes: dict[Section, int], expected: list[tuple[Section, int, int, int]]
) -> None:
    assert cut(sizes, 4) == tuple(Piece(*piece) for piece in expected)


def test_the_pieces_of_a_section_cover_it_once() -> None:
    pieces = cut({BLOCK: 1000}, 7)
    assert [i for p in pieces for i in range(p.start, p.stop)] == list(range(1000))
    assert max(p.stop - p.start for p in pieces) == 7
