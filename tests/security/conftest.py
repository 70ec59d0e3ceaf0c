"""Three honest members that train, and what each attack records of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import pytest
from support.daemon import FAST, Daemon, Fleet, fleet
from support.nursery import Nursery
from support.swarm import PACED

PACE_S = 0.1
BEFORE_S, SETTLE_S, DURING_S = 5.0, 3.0, 5.0
LEAST_RATE = 0.9


@dataclass
class Row:
    """One attack: what is expected, and what was seen."""

    attack: str
    expected: str
    seen: str = ""
    rate: float = -1.0
    """Steps a second of the honest while attacked, in those of before; -1 where it was not measured."""

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@pytest.fixture
def row(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Iterator[Row]:
    """Named by the first line of the test's docstring; the second says what is expected."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    lines = [line.strip() for line in (request.function.__doc__ or "").strip().splitlines() if line.strip()]
    row = Row(lines[0].rstrip(".").format(**parameters), lines[1].rstrip(".").format(**parameters))
    yield row
    record_property("attack", row.as_dict())


class Honest:
    """Members a, b and c of one run."""

    def __init__(self, peers: Fleet) -> None:
        self._peers = peers
        peers.run("secret", "new", "--state-dir", str(peers.folder / "a"))
        self.secret = peers.folder / "a" / "secret"
        first = self.start("a")
        self.daemons = [first, *(self.start(name, "--peers", first.address) for name in "bc")]
        for daemon in self.daemons:
            daemon.until(
                lambda r: sum(n.mixing_weight > 0 for n in r.neighbours) == 2 and r.progress.step > 20
            )

    def start(self, name: str, *options: str) -> Daemon:
        """One more member; c takes part in a run with an end that is far away."""
        return self._peers.start(
            name,
            *("--listen", "127.0.0.1:0", "--lr", "1e-3", "--secret", str(self.secret), *options),
            defaults=FAST,
            before=PACED.format(pace=PACE_S),
        )

    @property
    def addresses(self) -> list[str]:
        return [daemon.address for daemon in self.daemons]

    def steps(self) -> list[int]:
        """At which each is; fails if one has ended."""
        return [daemon.status().progress.step for daemon in self.daemons]

    def losses(self) -> list[float]:
        return [daemon.status().training.loss for daemon in self.daemons]

    def memory(self) -> int:
        """Bytes resident of all."""
        return sum(psutil.Process(daemon.pid).memory_info().rss for daemon in self.daemons)

    def said(self, words: str) -> int:
        """How often their logs have these words."""
        return sum(daemon.log.count(words) for daemon in self.daemons)

    async def rate(self, seconds: float) -> float:
        """Steps a second, of the slowest."""
        begun, before = time.monotonic(), await asyncio.to_thread(self.steps)
        await asyncio.sleep(seconds)
        after = await asyncio.to_thread(self.steps)
        return min(b - a for a, b in zip(before, after, strict=True)) / (time.monotonic() - begun)

    def mix_again(self) -> None:
        """Wait until all mix with all and with nobody else."""
        for daemon in self.daemons:
            daemon.until(lambda r: sum(n.mixing_weight > 0 for n in r.neighbours) == 2)


@pytest.fixture
async def _tasks_end_with_the_test() -> None:
    """In the place of tests/conftest.py's: gRPC leaves a task of its own behind when a client is cut off in a write."""


@pytest.fixture(scope="module")
def honest(
    nursery: Nursery, tmp_path_factory: pytest.TempPathFactory, tiny: Path, texts: Path
) -> Iterator[Honest]:
    with fleet(nursery, tmp_path_factory.mktemp("honest"), tiny, texts) as peers:
        yield Honest(peers)
