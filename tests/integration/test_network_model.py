"""What `decad lab network` predicts is what daemons send on narrow lines; times are for `make network-check`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Fleet, fleet
from support.lines import Setting, measure
from support.netns import Namespaces
from support.nursery import Nursery
from support.tiny import make_tiny_llama

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

RING = Setting("ring", (2.5e5,) * 3, learning=2, steps=6)


@pytest.fixture
def daemons(nursery: Nursery, tmp_path: Path, texts: Path) -> Iterator[Fleet]:
    with fleet(nursery, tmp_path, make_tiny_llama(tmp_path / "model", hidden=48), texts) as daemons:
        yield daemons


def test_a_ring_of_three_on_narrow_lines_sends_the_bytes_that_the_model_says(daemons: Fleet) -> None:
    with Namespaces(3) as net:
        said, seen = measure(RING, net, daemons)
    assert seen.bytes_sent == pytest.approx(said.bytes_sent, rel=0.25)
