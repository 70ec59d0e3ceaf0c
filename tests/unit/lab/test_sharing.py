"""Max-min fair shares of lines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decad.lab.sharing import fair_rates


def rates(streams: list[tuple[int, int]], uplink: list[float], downlink: list[float]) -> list[float]:
    source, target = np.array(streams, dtype=np.int64).reshape(-1, 2).T
    return [float(rate) for rate in fair_rates(source, target, np.array(uplink), np.array(downlink))]


@pytest.mark.parametrize(
    ("streams", "uplink", "downlink", "expected"),
    [
        ([], [1.0], [1.0], []),
        ([(0, 1)], [4.0, 1.0], [1.0, 3.0], [3.0]),
        ([(0, 1), (0, 2)], [4.0, 1.0, 1.0], [9.0, 9.0, 9.0], [2.0, 2.0]),
        (
            [(0, 1), (0, 2)],
            [4.0, 1.0, 1.0],
            [9.0, 1.0, 9.0],
            [1.0, 3.0],
        ),  # what one cannot use the other gets
        ([(0, 2), (1, 2), (1, 3)], [1.0, 8.0, 9.0, 9.0], [9.0, 9.0, 4.0, 9.0], [1.0, 3.0, 5.0]),
    ],
)
def test_shares(
    streams: list[tuple[int, int]], uplink: list[float], downlink: list[float], expected: list[float]
) -> None:
    assert rates(streams, uplink, downlink) == pytest.approx(expected)


PEERS = 5
lines = st.lists(st.floats(0.1, 100.0), min_size=PEERS, max_size=PEERS)
pairs = st.tuples(st.integers(0, PEERS - 1), st.integers(0, PEERS - 1))


@given(st.lists(pairs, min_size=1, max_size=20, unique=True), lines, lines)
def test_every_stream_has_a_full_line_on_which_nobody_has_more(
    streams: list[tuple[int, int]], uplink: list[float], downlink: list[float]
) -> None:
    """That is what max-min fair means (Bertsekas and Gallager, Data Networks, 6.5.2)."""
    given_ = rates(streams, uplink, downlink)
    for (source, target), rate in zip(streams, given_, strict=True):
        full = []
        for end, capacity in ((0, uplink[source]), (1, downlink[target])):
            peer = (source, target)[end]
            beside = [r for s, r in zip(streams, given_, strict=True) if s[end] == peer]
            assert sum(beside) <= capacity * (1 + 1e-9)
            full.append(sum(beside) >= capacity * (1 - 1e-9) and rate >= max(beside) * (1 - 1e-9))
        assert any(full)
