"""A donor that dies while a joiner fetches from it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from support.fault_table import Row
from support.swarm import MakeSwarm

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(600)]

JOINER_BYTES_PER_S = 300_000
"""The joiner's cable: one layer of the wide model takes eight seconds by itself."""


def test_donor_killed(swarm: MakeSwarm, wide: Path, row: Row, injections: int) -> None:
    """Donor killed during a join, then started again."""
    s = swarm("abcd", pace=0.4, model=wide)
    s.begin(names="abc")
    s.go_on("abc", 16)
    for injection in range(injections):
        if injection:
            s.stop("d")
            shutil.rmtree(s.directory("d"))
        s.net.worsen(s.number("d"), bytes_per_s=JOINER_BYTES_PER_S)
        s.start("d")
        s["d"].until_log(r"joining at step \d+: fetching \d blocks? from .*\bc\b")
        at = time.monotonic()
        s.kill("c")
        row.injected += 1
        row.noticed_s.append(s.noticed("d", r"\bc \(\w+\) is suspect", at))
        s.net.mend(s.number("d"))
        s.until_together("abd")
        row.recovered_s.append(time.monotonic() - at)
        s.comes_back("c")
        s.until_together()
    row.lost += s.finish()
    assert not row.lost
