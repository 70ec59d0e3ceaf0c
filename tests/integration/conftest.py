"""Three peers that train together for as long as a module's tests run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Fleet, fleet
from support.nursery import Nursery
from support.swarm import PACED


@pytest.fixture(scope="module")
def trio(
    nursery: Nursery, tmp_path_factory: pytest.TempPathFactory, tiny: Path, texts: Path
) -> Iterator[Fleet]:
    """Only to be asked."""
    with fleet(nursery, tmp_path_factory.mktemp("trio"), tiny, texts) as trio:
        options = ("--run", "trio", "--lr", "1e-3", "--order", "shuffled", "--overlay", "full")
        trio.start_three(*options, before=PACED.format(pace=0.02))
        yield trio
