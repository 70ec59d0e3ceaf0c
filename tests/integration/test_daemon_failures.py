"""What ends a daemon from within: its operator reads one paragraph, and its neighbours hear a goodbye."""

from __future__ import annotations

import re

import pytest
from support.daemon import Fleet

from decad.state.checkpoint import open_checkpoint

pytestmark = pytest.mark.timeout(60)

NOT_FINITE = """
from decad.model.trainable import TrainableModel
gradient = TrainableModel.gradient
calls = 0
def poisoned(self, *batch):
    global calls
    calls += 1
    loss, values = gradient(self, *batch)
    return loss, values * (float("nan") if calls == 9 else 1)
TrainableModel.gradient = poisoned
"""

BROKEN_NETWORK = """
from decad.membership.dialplan import DialPlan
from decad.daemon.network import Network
due, announce = DialPlan.due, Network.announce
broken = False
def note(self, step, stage):
    global broken
    broken = step >= 9
    announce(self, step, stage)
def fail(self, *arguments):
    if broken:
        raise ZeroDivisionError("a bug")
    return due(self, *arguments)
DialPlan.due, Network.announce = fail, note
"""


def test_a_gradient_that_is_not_finite(peers: Fleet) -> None:
    a = peers.start("a")
    b = peers.start("b", "--peers", a.address, before=NOT_FINITE)
    ended = b.result()
    assert ended.code == 2
    told = re.match(
        r"decad: The gradient of block .* is not finite at step (\d+)\. ", ended.err.splitlines()[-1]
    )
    assert told
    with open_checkpoint(b.state_dir) as checkpoint:
        assert checkpoint is not None
        assert checkpoint.run.step == int(told[1])
    assert "Traceback" not in ended.err
    a.until_log(r"b \(\w{8}\) is gone: it said goodbye: it failed\n")


def test_a_bug_in_the_background_ends_the_daemon_and_is_called_one(peers: Fleet) -> None:
    ended = peers.start("a", before=BROKEN_NETWORK).result()
    assert ended.code == 70
    assert ended.err.splitlines()[-1] == (
        "decad: internal error: ZeroDivisionError: a bug. Run it again with `decad --debug` for the traceback. "
        "Please report it."
    )
    assert "Traceback" not in ended.err
    debugged = peers.start("a", before=BROKEN_NETWORK, debug=True).result()
    assert "ZeroDivisionError: a bug" in debugged.err
    assert "Traceback (most recent call last)" in debugged.err
