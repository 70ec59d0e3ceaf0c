"""What a peer says of its own training when that goes wrong."""

from __future__ import annotations

import math

import pytest

from decad.daemon.progress import RISEN, SMOOTHED, Progress


def trained(losses: list[float]) -> list[str]:
    progress = Progress()
    for loss in losses:
        progress.trained(loss, 1)
    return [text for _, text in progress.notices.entries]


def test_a_loss_that_rises_is_told_once_with_what_to_do() -> None:
    (said,) = trained([3.0] * SMOOTHED + [3.1 + RISEN] * 3 * SMOOTHED)
    assert "has risen by more than 0.5" in said
    assert "`decad tune`" in said


@pytest.mark.parametrize(
    "losses",
    [[3.0, 4.0] * SMOOTHED, [3.0] * SMOOTHED + [2.0] * SMOOTHED, [9.0] * (SMOOTHED - 1), [math.nan] * 2],
)
def test_noise_and_learning_are_not(losses: list[float]) -> None:
    assert trained(losses) == []
