"""A donor that dies while a joiner fetches from it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from support.fault_table import Row
from support.swarm import MakeSwarm

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(600)]

DONOR_BYTES_PER_S = 1_000_000
"""A layer of the wide model takes more than two seconds to fetch."""


def test_donor_killed(swarm: MakeSwarm, wide: Path, row: Row, injections: int) -> None:
    """Donor killed during a join, then started again."""
    s = swarm("abcd", pace=0.4, model=wide)
    s.begin(names="abc")
    s.go_on("abc", 16)
    for injection in range(injections):
        if injection:
            s.stop("d")
            shutil.rmtree(s.directory("d"))
        s.net.worsen(s.number("c"), bytes_per_s=DONOR_BYTES_PER_S)
        s.start("d")
        s["d"].until_log(r"joining at step \d+: fetching \d blocks? from .*\bc\b")
        at = time.monotonic()
        s.kill("c")
        row.injected += 1
        row.noticed_s.append(s.noticed("d", r"\bc is suspect", at))
        s.until_together("abd")
        row.recovered_s.append(time.monotonic() - at)
        s.net.mend(s.number("c"))
        s.comes_back("c")
        s.until_together()
    row.lost += s.finish()
    assert not row.lost
