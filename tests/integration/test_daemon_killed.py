"""kill -9 of one of three daemons in the middle of a phase."""

from __future__ import annotations

import re
import signal

import pytest
from support.daemon import Fleet

pytestmark = pytest.mark.timeout(120)

INNER_STEPS = 50


def test_the_others_go_on_without_a_killed_peer_and_take_it_back(peers: Fleet) -> None:
    a, b, c = peers.start_three("--inner-steps", str(INNER_STEPS))
    # Past a phase's end, when c has a checkpoint: it is written beside the training, which may be well into the next.
    c.until_step(INNER_STEPS + 5)
    c.until(lambda reply: any(c.state_dir.glob("manifest-*.json")))
    c.signal(signal.SIGKILL)
    assert c.result().code == -signal.SIGKILL
    for other in (a, b):
        killed_at = other.status().progress.step
        reply = other.until_step(killed_at + 20)
        (gone,) = [n for n in reply.neighbours if n.name == "c"]
        assert gone.state in ("suspect", "gone")
        assert re.search(r"^its link closed: ", gone.detail)
        (there,) = [n for n in reply.neighbours if n.name != "c"]
        assert (there.state, there.mixing_weight) == ("alive", 0.5)
        said = [notice.text for notice in reply.notices]
        assert any(
            re.fullmatch(r"c \(\w{8}\) is (suspect|gone): its link closed: .*[^.]\.", text) for text in said
        )
        other.until_log(r"c \(\w{8}\) is suspect: its link closed: .*[^.]\n")
        other.until_log(r"c \(\w{8}\) is gone: its link closed: .*; it did not come back\n")

    c = peers.start("c", "--inner-steps", str(INNER_STEPS), "--min-peers", "2", "--peers", b.address)
    resumed = int(c.until_log(r"continuing at step (\d+)\n")[1])
    assert resumed % INNER_STEPS == 0
    c.until_log(
        r"joining at step \d+: fetching \d blocks? from [ab] \(\w{8}\)(, b \(\w{8}\))? \(\d+ of \d+ MB\)\n"
    )
    a.until(
        lambda r: (
            len(r.neighbours) == 2
            and all(n.mixing_weight == pytest.approx(1 / 3) and abs(n.step_lag) <= 1 for n in r.neighbours)
        )
    )
    assert c.status().progress.step > resumed
    for daemon in (a, b, c):
        daemon.signal(signal.SIGTERM)
    assert [daemon.result().code for daemon in (a, b, c)] == [0, 0, 0]
    for daemon in (a, b, c):
        assert "Traceback" not in daemon.log
