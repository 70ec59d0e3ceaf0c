"""A disk that fills up while the peer trains."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fault_table import Row
from support.netns import unavailable
from support.swarm import MakeSwarm

pytestmark = [pytest.mark.netns, pytest.mark.timeout(300)]

SIZE = 4 << 20
BLOCKED = (
    r"^The checkpoint of step \d+ could not be saved in .*: No space left on device\. "
    r"The previous checkpoint is untouched"
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Where the state directory of c is: a disk of its own."""
    if reason := unavailable():
        pytest.skip(reason)
    place = tmp_path / "c"
    place.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "decad-test", place], check=True, timeout=10
    )
    yield place
    subprocess.run(["umount", "--lazy", place], check=True, timeout=10)


def test_disk_full(small_disk: Path, swarm: MakeSwarm, row: Row, injections: int) -> None:
    """Disk full at one of three, then freed."""
    s = swarm("abc")
    s.begin()
    for _ in range(injections):
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file:
            at = time.monotonic()
            for _ in range(SIZE // 4096):
                try:
                    file.write(b"\0" * 4096)
                except OSError:
                    break
        row.injected += 1
        row.noticed_s.append(s.noticed("c", BLOCKED, at))
        kept = s.saved_step("c")
        s.until_together()
        s.go_on("c", 20)
        assert s.saved_step("c") == kept
        filler.unlink()
        began = time.monotonic()
        s.until_saved("c", beyond=kept)
        row.recovered_s.append(time.monotonic() - began)
    row.lost += s.finish()
    assert not row.lost
