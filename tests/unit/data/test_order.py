"""The order of a run's examples outlives versions: a peer that is started again goes on in it."""

from __future__ import annotations

from decad.data.order import permutation, visited


def test_the_orders_are_frozen() -> None:
    assert visited(7, 5, 0, 13).tolist() == [2, 4, 3, 1, 0, 2, 1, 0, 3, 4, 3, 0, 4]
    assert permutation("held-out", 7, 0, 5).tolist() == [3, 1, 4, 0, 2]


def test_one_can_go_on_anywhere() -> None:
    whole = visited(7, 5, 0, 20).tolist()
    assert [i for start in range(0, 20, 4) for i in visited(7, 5, start, start + 4)] == whole
    assert visited(7, 5, 3, 17).tolist() == whole[3:17]
