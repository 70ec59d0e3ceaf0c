"""A disk that fills up and is emptied again while a daemon trains."""

from __future__ import annotations

import re

import pytest
from support.daemon import Fleet

pytestmark = pytest.mark.timeout(90)

FULL_WHILE = """
import errno, os
open_ = os.open
def maybe_full(path, flags, *rest, **named):
    if str(path).endswith("incoming.tmp") and os.path.exists({marker!r}):
        raise OSError({code}, os.strerror({code}))
    return open_(path, flags, *rest, **named)
os.open = maybe_full
"""
ENOSPC, EROFS = 28, 30


@pytest.mark.parametrize("code", [ENOSPC, EROFS], ids=["full", "read-only"])
def test_training_goes_on_while_nothing_can_be_saved_and_it_is_said_once(peers: Fleet, code: int) -> None:
    marker = peers.folder / "full"
    a = peers.start("a", before=FULL_WHILE.format(marker=str(marker), code=code))
    a.until_step(5)
    marker.touch()
    said = r"The checkpoint of step \d+ could not be saved in \S+: (No space left on device|Read-only file system)\."
    a.until_log(said)
    a.until_step(a.status().progress.step + 20)
    assert len(re.findall(said, a.log)) == 1
    marker.unlink()
    a.until_log(r"Checkpoints are saved again, from step \d+\.\n")
    marker.touch()
    stopped = peers.run("stop", "--state-dir", str(a.state_dir))
    assert stopped.code == 0
    ended = a.result()
    assert ended.code == 6
    assert re.fullmatch(f"decad: {said}.*", ended.err.splitlines()[-1])

    marker.unlink()
    again = peers.start("a", "--steps", "1")
    assert again.result().code == 0
    again.until_log(r"continuing at step \d+\n")
