from __future__ import annotations

import pytest
import torch
from torch import Tensor

from decad.core.adam import AdamState
from decad.core.blocks import Block, BlockPlan
from decad.core.constants import AdamConstants
from decad.core.moments import default_b1, moment_rule
from decad.core.section import Section
from decad.errors import ConfigError

NAMES = ["rowwise", "gossip", "signal", "none"]
CONSTANTS = AdamConstants()


@pytest.fixture
def block() -> Block:
    """A matrix [2, 3] and a vector [2]: three rows."""
    return BlockPlan.build([("b", ["w", "g"])], {"w": (2, 3), "g": (2,)})[0]


def state_with(v: list[float], updates: int = 3) -> AdamState:
    return AdamState(torch.linspace(-1, 1, len(v)), torch.tensor(v), updates)


def no_drift(block: Block, sizes: dict[Section, int]) -> dict[Section, Tensor]:
    return {s: torch.zeros(n) for s, n in (sizes | {Section.BLOCK: block.numel}).items()}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("rowwise", {Section.SECOND: 3}),
        ("gossip", {Section.FIRST: 8, Section.SECOND: 8}),
        ("signal", {}),
        ("none", {}),
    ],
)
def test_what_travels_has_the_announced_size(block: Block, name: str, sizes: dict[Section, int]) -> None:
    rule = moment_rule(name)
    assert rule.sections(block) == sizes
    outgoing = rule.outgoing(block, state_with([1.0] * 8))
    assert {s: o.numel() for s, o in outgoing.items()} == sizes


@pytest.mark.parametrize("name", NAMES)
def test_without_neighbours_every_rule_is_adam_bit_for_bit(block: Block, name: str) -> None:
    rule, state = moment_rule(name), state_with([0.1, 0.7, 0.3, 0, 0, 0, 3, 1e-9])
    m, v = state.m.clone(), state.v.clone()
    rule.apply(block, state, no_drift(block, rule.sections(block)), 1e-3, CONSTANTS)
    assert torch.equal(state.m, m)
    assert torch.equal(state.v, v)


@pytest.mark.parametrize("name", NAMES)
def test_discrepancies_are_only_read(block: Block, name: str) -> None:
    rule = moment_rule(name)
    d = {s: torch.full_like(o, 0.25) for s, o in no_drift(block, rule.sections(block)).items()}
    rule.apply(block, state_with([1.0] * 8), d, 1e-3, CONSTANTS)
    assert all(bool((o == 0.25).all()) for o in d.values())


@pytest.mark.parametrize("name", ["rowwise", "signal"])
def test_a_learning_rate_of_zero_gives_no_signal(block: Block, name: str) -> None:
    rule, state = moment_rule(name), state_with([1.0] * 8)
    m = state.m.clone()
    d = no_drift(block, rule.sections(block)) | {Section.BLOCK: torch.ones(8)}
    rule.apply(block, state, d, 0.0, CONSTANTS)
    assert torch.equal(state.m, m)


@pytest.mark.parametrize("name", NAMES)
def test_a_joiner_that_has_not_trained_keeps_zero_moments(block: Block, name: str) -> None:
    rule, state = moment_rule(name), AdamState.zeros(8, "cpu")
    d = no_drift(block, rule.sections(block)) | {Section.BLOCK: torch.ones(8)}
    rule.apply(block, state, d, 1e-3, CONSTANTS)
    assert not state.m.any()
    assert not state.v.any()


def test_printed_rule_leaves_a_joiner_alone_too(block: Block) -> None:
    state = AdamState.zeros(8, "cpu")
    moment_rule("signal", unit="parameter").apply(
        block, state, {Section.BLOCK: torch.ones(8)}, 1e-3, CONSTANTS
    )
    assert not state.m.any()


def test_rowwise_never_gives_a_negative_second_moment(block: Block) -> None:
    state = state_with([1.0] * 8)
    d = {Section.BLOCK: torch.zeros(8), Section.SECOND: torch.tensor([-2.0, -1.0, 0.0])}
    moment_rule("rowwise").apply(block, state, d, 1e-3, CONSTANTS)
    assert state.v.tolist() == [0.0] * 6 + [1.0] * 2


def test_rowwise_stays_finite_whatever_row_means_a_neighbour_claims(block: Block) -> None:
    state = state_with([0.0, 0.0, 3e-30, 0.0, 0.0, 0.0, 1.0, 1.0])
    d = {Section.BLOCK: torch.zeros(8), Section.SECOND: torch.tensor([1e37, 1e37, 1e37])}
    moment_rule("rowwise").apply(block, state, d, 1e-3, CONSTANTS)
    assert bool(torch.isfinite(state.v).all())


def test_gossip_never_gives_a_negative_second_moment(block: Block) -> None:
    state = state_with([1.0] * 8)
    d = {Section.BLOCK: torch.zeros(8), Section.FIRST: torch.zeros(8), Section.SECOND: torch.full((8,), -1.1)}
    moment_rule("gossip").apply(block, state, d, 1e-3, CONSTANTS)
    assert state.v.tolist() == [0.0] * 8


def test_default_b1() -> None:
    assert {name: default_b1(name) for name in NAMES} == {
        "rowwise": 0.5,
        "signal": 0.9,
        "gossip": 1.0,
        "none": 1.0,
    }


@pytest.mark.parametrize(
    ("name", "unit"), [("m-only", "gradient"), ("signal", "metre"), ("gossip", "parameter")]
)
def test_unknown_rules_are_refused(name: str, unit: str) -> None:
    with pytest.raises(ConfigError, match="Use one of rowwise, gossip, signal, none"):
        moment_rule(name, unit=unit)
