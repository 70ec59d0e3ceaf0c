"""Peers that look around, dial and give up faster than in life, so that a test of minutes takes seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from decad.daemon import network, peer, trainer
from decad.membership import dialplan


@pytest.fixture(autouse=True)
def fast_timers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(network, "TICK_S", 0.02)
    monkeypatch.setattr(peer, "POLL_S", 0.02)
    monkeypatch.setattr(peer, "SETTLE_S", 0.3)
    monkeypatch.setattr(peer, "REACH_S", 5.0)
    monkeypatch.setattr(peer, "LINGER_S", 1.0)
    monkeypatch.setattr(trainer, "KNOWN_S", 0.3)
    monkeypatch.setattr(dialplan, "FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(dialplan, "LAST_DELAY_S", 0.2)
    # Nobody cuts the power here, and eight peers that force files to one disk would wait for it, not for each other.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    interval = sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)  # a compute thread changes it for the whole process
