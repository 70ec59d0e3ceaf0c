from __future__ import annotations

import pytest

from decad.membership.suspicion import GAPS_KEPT, Hearing, patience


@pytest.mark.parametrize(
    ("gaps", "suspect_s", "gone_s"),
    [
        pytest.param([], 2.0, 4.0, id="nothing heard yet: the floor"),
        pytest.param([0.5] * 64, 2.0, 4.0, id="quiet LAN: the floor"),
        pytest.param([0.01] * 64, 2.0, 4.0, id="a beacon at every fast step: the floor"),
        pytest.param([0.5, 1.5] * 32, 4.0, 8.0, id="half of the gaps 1.5 s: 1 + 6 * 0.5"),
        pytest.param([1.0, 1.5, 2.0] * 21, 4.5, 9.0, id="1.5 + 6 * 0.5"),
        pytest.param([0.5] * 63 + [60.0], 2.0, 4.0, id="one outlier says nothing"),
        pytest.param([0.5] * 62 + [3.0, 4.0], 3.75, 7.5, id="what came twice may come again: 1.25 * 3"),
        pytest.param([60.0], 10.0, 20.0, id="the only gap"),
        pytest.param([60.0] * 64, 10.0, 20.0, id="the ceiling"),
    ],
)
def test_formula(gaps: list[float], suspect_s: float, gone_s: float) -> None:
    assert patience(gaps) == pytest.approx((suspect_s, gone_s))


def test_old_gaps_are_forgotten() -> None:
    hearing, now = Hearing(), 0.0
    for gap in [5.0] * 100 + [0.5] * GAPS_KEPT:
        now += gap
        hearing.heard(now)
    assert hearing.patience == patience([0.5])


def test_pause_between_two_links_is_no_gap() -> None:
    hearing = Hearing()
    hearing.heard(0.0)
    hearing.interrupted()
    hearing.heard(1000.0)
    assert hearing.patience == patience([])
