"""No number is too great or too small for the message that carries it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decad._proto import control_pb2, peer_pb2
from decad.wire.numbers import as_sint64, as_uint32, as_uint64


@pytest.mark.parametrize(
    ("clamp", "put", "low", "high"),
    [
        (as_uint32, lambda n: control_pb2.Progress(inner_steps=n), 0, 2**32 - 1),
        (as_uint64, lambda n: peer_pb2.Beacon(step=n), 0, 2**64 - 1),
        (as_sint64, lambda n: control_pb2.Neighbour(step_lag=n), -(2**63), 2**63 - 1),
    ],
)
@given(number=st.integers(-(2**70), 2**70))
def test_every_number_is_carried_or_the_nearest_that_can_be(
    clamp: Callable[[int], int], put: Callable[[int], object], low: int, high: int, number: int
) -> None:
    put(clamp(number))
    assert clamp(number) == sorted((low, number, high))[1]
