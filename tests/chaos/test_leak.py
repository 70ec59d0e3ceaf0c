"""A neighbour that fails again and again leaves nothing behind. `make chaos-leak` is the long version."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fault_table import Row
from support.leaks import observe, slopes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS, EVERY = 500, 20
LEFT = {"rss_kib": 256.0, "private_kib": 256.0, "files": 0.5, "tasks": 0.5, "threads": 0.5}
"""A failure that leaves as much behind is a leak; half a file, since a leaked one may show at every other failure."""


def test_nothing_is_left_of_failed_neighbours(tmp_path: Path, row: Row) -> None:
    """Killed or link dropped, in turn, every 20 of 500 steps."""
    samples = list(observe(tmp_path, STEPS, EVERY))
    row.injected = samples[-1].failures
    failures = row.injected - samples[0].failures
    row.lost += [str(s) for s in slopes(samples) if s.growth > LEFT[s.figure] * failures]
    assert not row.lost
