"""What a daemon holds while a neighbour fails again and again: memory, files, tasks and threads.

The neighbour is a daemon too. It is killed and started again, or it drops its link without a word, in turn.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from support.daemon import POLL_S, Daemon, Fleet, fleet
from support.nursery import Nursery
from support.swarm import PACED
from support.tiny import make_tiny_llama

PACE_S = 0.05
SAMPLE_EVERY = 100
SETTLED_AFTER = 0.1
"""Share of the run that is left out: caches and pools fill up."""
PATIENCE_S = 60.0

COUNTED = """
import asyncio
from decad.daemon.status import StatusBoard
reply = StatusBoard.reply
def counted(self):
    print(len(asyncio.all_tasks()), flush=True)
    return reply(self)
StatusBoard.reply = counted
"""
"""The observed daemon writes its number of tasks before it answers with its status."""

DROPS = """
import os
from decad.daemon import waiting
from decad.daemon.session import Session
waiting.SETTLE_S = 0.1
tell = Session.tell_beacon
def drop(self, force=False):
    if os.path.exists({order!r}):
        os.unlink({order!r})
        self._listener._links._close_soon(self.link)
    else:
        tell(self, force)
Session.tell_beacon = drop
"""
"""The neighbour drops its link when the file ``order`` is there. It looks around for peers only briefly."""


class Sample(NamedTuple):
    """What the daemon held at a step."""

    step: int
    failures: int
    rss_kib: float
    """With what it shares with the process that it was forked from, and libraries' pages as they are first used."""
    private_kib: float
    """Of that, memory of its own: not of files."""
    files: float
    tasks: float
    threads: float


FIGURES = ("rss_kib", "private_kib", "files", "tasks", "threads")


class Slope(NamedTuple):
    """Of a figure over the whole run, by least squares."""

    figure: str
    growth: float
    """From the first step that counts to the last."""
    low: float
    high: float
    """Of its 95 % confidence interval."""

    def __str__(self) -> str:
        return f"{self.figure:11} {self.growth:+9.2f} over the run, 95 % between {self.low:+.2f} and {self.high:+.2f}"


def observe(folder: Path, steps: int, every: int) -> Iterator[Sample]:
    """Samples of a daemon that takes ``steps`` steps beside a neighbour that fails every ``every`` of them."""
    with _two(folder) as (peers, a):
        order = folder / "drop"
        before = PACED.format(pace=PACE_S) + DROPS.format(order=str(order))
        b = peers.start("b", "--peers", a.address, before=before)
        failures, sampled = 0, 0
        while (step := _mixed(a)) < steps:
            if step >= sampled + SAMPLE_EVERY:
                sampled = step
                yield _sample(a, failures)
            if step >= (failures + 1) * every:
                failures += 1
                if failures % 2:
                    b.end()
                    b = peers.start("b", "--peers", a.address, before=before)
                else:
                    order.touch()
                    _until_gone(order)
            time.sleep(POLL_S)


def slopes(samples: Sequence[Sample]) -> list[Slope]:
    """Of every figure."""
    kept = samples[int(len(samples) * SETTLED_AFTER) :]
    return [_slope(figure, [s.step for s in kept], [getattr(s, figure) for s in kept]) for figure in FIGURES]


def _slope(figure: str, at: Sequence[int], values: Sequence[float]) -> Slope:
    x, y = np.asarray(at, float) - np.mean(at), np.asarray(values)
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    error = float(np.sqrt(rest @ rest / max(1, len(x) - 2) / (x @ x)))
    length = at[-1] - at[0]
    return Slope(figure, slope * length, (slope - 1.96 * error) * length, (slope + 1.96 * error) * length)


@contextmanager
def _two(folder: Path) -> Iterator[tuple[Fleet, Daemon]]:
    texts = folder / "texts"
    texts.mkdir(parents=True)
    (texts / "text.txt").write_text("All work and no play makes a dull corpus. " * 500, encoding="utf-8")
    with Nursery() as nursery, fleet(nursery, folder, make_tiny_llama(folder / "tiny"), texts) as peers:
        yield peers, peers.start("a", before=PACED.format(pace=PACE_S) + COUNTED)


def _mixed(daemon: Daemon) -> int:
    """Its step, once it mixes with its neighbour."""
    reply = daemon.until(
        lambda r: any(n.state == "alive" and n.mixing_weight > 0 for n in r.neighbours), PATIENCE_S
    )
    return int(reply.progress.step)


def _until_gone(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while path.exists():
        assert time.monotonic() < deadline, "the neighbour does not drop its link"
        time.sleep(POLL_S)


def _sample(daemon: Daemon, failures: int) -> Sample:
    step, process = daemon.status().progress.step, Path(f"/proc/{daemon.pid}")
    held = re.findall(r"^(?:VmRSS|RssAnon):\s+(\d+) kB", (process / "status").read_text(), re.MULTILINE)
    return Sample(
        step,
        failures,
        float(held[0]),
        float(held[1]),
        len(os.listdir(process / "fd")),
        int(daemon.out.splitlines()[-1]),
        len(os.listdir(process / "task")),
    )
