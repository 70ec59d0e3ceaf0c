"""The model of a run's steps, where paper and pencil know the answer."""

from __future__ import annotations

import numpy as np
import pytest

from decad.core.overlay import graph
from decad.lab.distributions import Distribution
from decad.lab.fluid import FRAMING, simulate
from decad.lab.network import Load, Network, Outcome, join

RATE = 1e6
BYTES = 1e6
WAY = BYTES * FRAMING / RATE
"""Seconds of a message that has a line for itself."""


def network(overlay: str, peers: int, *, latency: float = 0.0, compute: float = 1.0) -> Network:
    return join(
        graph(overlay, [f"{peer:03}" for peer in range(peers)]),
        overlay,
        Distribution("constant", (latency,)),
        np.random.default_rng(0),
        compute=np.full(peers, compute),
        uplink=np.full(peers, RATE),
        downlink=np.full(peers, RATE),
    )


def outcome(here: Network, load: Load | None = None, steps: int = 6, learning: int = 8) -> Outcome:
    return simulate(here, load or Load(BYTES, BYTES, 20), steps, learning, np.random.default_rng(0))


@pytest.mark.parametrize(("overlay", "peers", "degree"), [("ring", 3, 2), ("full", 5, 4), ("ring", 300, 2)])
def test_equal_peers_compute_and_then_send_to_all_at_once(overlay: str, peers: int, degree: int) -> None:
    seen = outcome(network(overlay, peers))
    assert seen.step_s == pytest.approx(1.0 + degree * WAY, rel=0.01)
    assert seen.bytes_sent == pytest.approx(degree * BYTES)
    assert (seen.complete, seen.mixed) == (1.0, 1.0)
    assert seen.compute_s + seen.waiting_s + seen.network_s == pytest.approx(1.0 + degree * WAY, rel=0.01)


def test_a_message_is_under_way_for_its_latency_once() -> None:
    assert outcome(network("ring", 3, latency=0.3)).step_s == pytest.approx(1.0 + 2 * WAY + 0.3)


def test_the_narrowest_line_sets_the_pace_of_a_full_overlay() -> None:
    here = network("full", 4)
    here.uplink[2] = RATE / 2
    assert outcome(here).step_s == pytest.approx(1.0 + 6 * WAY)


def test_a_neighbour_that_has_gone_on_was_heard_all_the_same() -> None:
    here = network("ring", 6, compute=1.5 * WAY)
    here.uplink[0] = here.downlink[0] = RATE / 2
    seen = outcome(here)
    assert seen.step_s == pytest.approx(5.5 * WAY, rel=0.01)
    assert seen.mixed > 0.9


def test_who_is_less_than_half_as_fast_is_not_waited_for() -> None:
    here = network("full", 4)
    here.compute[1] = 40.0
    seen = outcome(here, steps=20)
    assert np.median(seen.step_s) < 2 * (1.0 + 3 * WAY)
    assert seen.complete < 0.1


def test_all_but_the_first_message_of_a_phase_are_changes() -> None:
    seen = outcome(network("ring", 3), Load(BYTES, 0.8 * BYTES, 4), steps=8)
    assert seen.bytes_sent == pytest.approx(2 * BYTES * (1 + 3 * 0.8) / 4)
    assert seen.step_s == pytest.approx(1.0 + 2 * WAY * (1 + 3 * 0.8) / 4, rel=0.01)


def test_mixing_contracts_as_the_overlay_does_where_nobody_is_late() -> None:
    seen = outcome(network("ring", 9))
    assert seen.contraction == pytest.approx(1 - 2 / 3 * (1 - np.cos(2 * np.pi / 9)))
    assert 0.5 ** (1 / seen.halving_steps) == pytest.approx(seen.contraction)


def test_who_falls_silent_is_missed_and_comes_back() -> None:
    load = Load(BYTES, BYTES, 20, failures=0.1, outage=Distribution("constant", (20.0,)))
    failing, sound = outcome(network("full", 6), load, steps=30), outcome(network("full", 6), steps=30)
    assert failing.mixed < sound.mixed
    assert 0 < failing.complete < 1


def test_the_same_seed_gives_the_same_outcome() -> None:
    load = Load(BYTES, BYTES, 20, jitter=Distribution("lognormal", (1.0, 0.3)))
    one, other = outcome(network("ring", 8), load), outcome(network("ring", 8), load)
    assert one.step_s.tolist() == other.step_s.tolist()
