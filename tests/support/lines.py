"""Real daemons on machines with narrow lines, and what `decad.lab.network` predicts for them, side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from decad._proto import control_pb2 as pb
from decad.core.overlay import graph
from decad.lab.distributions import Distribution
from decad.lab.fluid import simulate
from decad.lab.network import Load, join
from support.daemon import FAST, POLL_S, Daemon, Fleet
from support.netns import Namespaces
from support.swarm import PACED, PORT

PATIENCE_S = 300.0
ONE_BLOCK = ("--blocks", "1", "--freeze", "model.embed_tokens", "--encoding", "fp32")
INNER_STEPS = 1000


@dataclass(frozen=True)
class Setting:
    """Machines a, b, c, ... with one line each."""

    overlay: str
    bytes_per_s: tuple[float, ...]
    """Of each machine's line, each way."""
    delay_s: float = 0.0
    """Of each line: between two machines it is twice that."""
    compute_s: float = 0.5
    """Of a half-step, at least: the machine that runs the test may be busy."""
    learning: int = 3
    """Steps before the measured ones."""
    steps: int = 8

    @property
    def names(self) -> str:
        return "abcdefgh"[: len(self.bytes_per_s)]


class Seen(NamedTuple):
    """Of a step after the learning ones, mean over the peers."""

    step_s: float
    bytes_sent: float
    complete: float
    """Share of the steps in which nobody was missing."""


def measure(setting: Setting, net: Namespaces, fleet: Fleet) -> tuple[Seen, Seen]:
    """What the model predicts, and what daemons on ``net`` do.

    Of these the model is told their ids, what their half-steps took, and their block's bytes.
    """
    shown = fleet.run("blocks", "--model", str(fleet.model), "--json", "--seq-len", "32", *ONE_BLOCK)
    (block,) = json.loads(shown.out)["blocks"]
    for number, rate in enumerate(setting.bytes_per_s):
        net.worsen(number, delay_s=setting.delay_s, bytes_per_s=rate)
    daemons = [_start(setting, net, fleet, number) for number in range(len(setting.names))]
    with _watched(daemons):
        first, last = setting.learning, setting.learning + setting.steps
        begun, ended = _reach(daemons, first), _reach(daemons, last)
    pairs = list(zip(begun, ended, strict=True))
    seconds = [(b.at - a.at) / (b.reply.progress.step - a.reply.progress.step) for a, b in pairs]
    taken = [b.reply.training.steps_taken - a.reply.training.steps_taken for a, b in pairs]
    missing = [b.reply.training.steps_incomplete - a.reply.training.steps_incomplete for a, b in pairs]
    sent = [(_sent(b.reply) - _sent(a.reply)) / n for (a, b), n in zip(pairs, taken, strict=True)]
    seen = Seen(float(np.mean(seconds)), float(np.mean(sent)), 1 - sum(missing) / sum(taken))
    computed = {b.reply.peer_id: b.reply.training.compute_s for b in ended}
    return predict(setting, computed, float(block["bytes_per_step"])), seen


def predict(setting: Setting, computed: dict[str, float], message_bytes: float) -> Seen:
    """The model's answer; ``computed``: id of each machine's peer, in order -> seconds of a half-step."""
    chance = np.random.default_rng(0)
    peers = graph(setting.overlay, computed)
    rate = dict(zip(computed, setting.bytes_per_s, strict=True))
    lines = np.array([rate[peer] for peer in peers])
    network = join(
        peers,
        setting.overlay,
        Distribution("constant", (2 * setting.delay_s,)),
        chance,
        compute=np.array([computed[peer] for peer in peers]),
        uplink=lines,
        downlink=lines,
    )
    load = Load(message_bytes, message_bytes, INNER_STEPS)
    outcome = simulate(network, load, setting.steps, setting.learning, chance)
    return Seen(float(outcome.step_s.mean()), float(outcome.bytes_sent.mean()), outcome.complete)


class _Reached(NamedTuple):
    at: float
    reply: pb.StatusReply


def _start(setting: Setting, net: Namespaces, fleet: Fleet, number: int) -> Daemon:
    others = [net.address(other) for other in range(len(setting.names)) if other != number]
    return fleet.start(
        setting.names[number],
        *("--listen", f"{net.address(number)}:{PORT}", "--insecure"),
        *("--peers", ",".join(f"{address}:{PORT}" for address in others)),
        *("--min-peers", str(len(others)), "--overlay", setting.overlay, "--eval-every", "100000"),
        *(*ONE_BLOCK, "--inner-steps", str(INNER_STEPS)),
        defaults=FAST,
        namespace=net.name(number),
        before=PACED.format(pace=setting.compute_s),
    )


@contextmanager
def _watched(daemons: list[Daemon]) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        logs = "\n".join(daemon.log[-1500:] for daemon in daemons)
        raise AssertionError(f"{error}\n{logs}") from None
    finally:
        for daemon in daemons:
            daemon.end()


def _reach(daemons: list[Daemon], step: int) -> list[_Reached]:
    """When each of them had gone to ``step``, and its status then."""
    reached: dict[int, _Reached] = {}
    deadline = time.monotonic() + PATIENCE_S
    while len(reached) < len(daemons):
        for number, daemon in enumerate(daemons):
            if number in reached:
                continue
            if time.monotonic() > deadline or daemon.poll() is not None:
                raise AssertionError(f"peer {number} does not come to step {step}")
            reply = daemon.until(lambda reply: reply.peer_id)
            if reply.progress.step >= step:
                reached[number] = _Reached(time.monotonic(), reply)
        time.sleep(POLL_S)
    return [reached[number] for number in range(len(daemons))]


def _sent(reply: pb.StatusReply) -> int:
    counted = reply.traffic.sent
    return counted.block + counted.first_moment + counted.second_moment
