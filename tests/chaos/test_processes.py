"""Daemons that are killed, stopped in their tracks and started again: the others go on, and nothing is lost."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from support.fault_table import Row
from support.swarm import MakeSwarm

pytestmark = [pytest.mark.netns, pytest.mark.timeout(600)]

BRIEF_S = 0.8
"""Shorter than any suspicion."""
WITHOUT_C = r"went on without [^:]*\bc \(|^c \(\w+\) is (suspect|gone)"
C_GONE = r"^c \(\w+\) is gone"


def test_killed(swarm: MakeSwarm, wide: Path, row: Row, injections: int) -> None:
    """SIGKILL in mid-stream, then started again."""
    s = swarm("abc", pace=0.1, model=wide)
    s.begin()
    for _ in range(injections):
        at = time.monotonic()
        s.kill("c", in_mid_stream=True)
        row.injected += 1
        row.noticed_s.append(s.noticed("ab", WITHOUT_C, at))
        row.gone_s.append(s.until_state("ab", "c", "gone", at))
        s.until_together("ab")
        began = time.monotonic()
        s.comes_back("c")
        row.recovered_s.append(s.until_together() - began)
    row.lost += s.finish()
    assert not row.lost


@pytest.mark.slow
def test_restarted_at_once(swarm: MakeSwarm, row: Row, injections: int) -> None:
    """SIGKILL and a new start before the others hold it for gone."""
    s = swarm("abc")
    s.begin()
    for _ in range(injections):
        at = time.monotonic()
        s.kill("c")
        row.injected += 1
        began = time.monotonic()
        s.comes_back("c")
        row.noticed_s.append(s.noticed("ab", WITHOUT_C, at))
        row.recovered_s.append(s.until_together() - began)
    row.lost += s.finish()
    assert not row.lost


def test_stopped_briefly(swarm: MakeSwarm, wide: Path, row: Row, injections: int) -> None:
    """SIGSTOP in mid-stream and SIGCONT before anybody gives it up."""
    s = swarm("abc", pace=0.1, model=wide)
    s.begin()
    for _ in range(injections):
        at = time.monotonic()
        s.signal_in_mid_stream("c", signal.SIGSTOP)
        row.injected += 1
        time.sleep(BRIEF_S)
        s["c"].signal(signal.SIGCONT)
        began = time.monotonic()
        row.recovered_s.append(s.until_together() - began)
        row.noticed_s.append(s.noticed("ab", WITHOUT_C, at))
    row.lost += s.finish()
    assert not row.lost


@pytest.mark.slow
def test_stopped_for_long(swarm: MakeSwarm, wide: Path, row: Row, injections: int) -> None:
    """SIGSTOP in mid-stream and SIGCONT after everybody gave it up."""
    s = swarm("abc", pace=0.1, model=wide)
    s.begin()
    for _ in range(injections):
        at = time.monotonic()
        s.signal_in_mid_stream("c", signal.SIGSTOP)
        row.injected += 1
        row.noticed_s.append(s.noticed("ab", WITHOUT_C, at))
        row.gone_s.append(s.until_state("ab", "c", "gone", at))
        s.until_together("ab")
        s["c"].signal(signal.SIGCONT)
        began = time.monotonic()
        row.recovered_s.append(s.until_together() - began)
    row.lost += s.finish()
    assert not row.lost


@pytest.mark.slow
def test_rolling_restart(swarm: MakeSwarm, row: Row) -> None:
    """Rolling restart of five peers."""
    s = swarm("abcde", pace=0.1)
    s.begin()
    for name in s.names:
        s.stop(name)
        row.injected += 1
        s.until_together(s.names.replace(name, ""))
        began = time.monotonic()
        s.comes_back(name)
        row.recovered_s.append(s.until_together() - began)
    row.lost += s.finish()
    assert not row.lost


@pytest.mark.slow
def test_all_killed(swarm: MakeSwarm, row: Row, injections: int) -> None:
    """All killed, and back in reversed order."""
    s = swarm("abcd", pace=0.1)
    s.begin()
    for _ in range(injections):
        s.go_on(s.names, 20)
        furthest = max(s[name].status().progress.step for name in s.names)
        for name in s.names:
            s.kill(name)
            row.injected += 1
        began = time.monotonic()
        for name in reversed(s.names):
            s.comes_back(name)
        row.recovered_s.append(s.until_together() - began)
        assert min(s[name].status().progress.step for name in s.names) > furthest - 20
    row.lost += s.finish()
    assert not row.lost
