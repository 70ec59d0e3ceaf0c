"""The round's decisions: who is mixed when, when a step goes on, and why. Events in, actions out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from decad.core.overlay import edge_weight
from decad.core.round import WINDOW, Accumulate, Action, Proceed, Reason, Round


def half(mine: int, theirs: int) -> float:
    return 0.5


def started(neighbours: str, chunks: int = 1) -> Round:
    """Every neighbour's header came, and my half-step is done."""
    round_ = Round(neighbours, chunks, half)
    for peer in neighbours:
        assert round_.header(peer, len(neighbours))
    assert round_.half_ready(10.0) == []
    return round_


def chunks_of(actions: Sequence[Action]) -> list[tuple[str, int]]:
    return [(a.neighbour, a.chunk) for a in actions if isinstance(a, Accumulate)]


class Case(NamedTuple):
    """Two neighbours, one chunk each: events after my half-step -> how the step goes on."""

    events: str
    """h, c, s, l and a peer: its header, its chunk, sent to it, lost. T: the deadline."""
    proceed: Proceed


CASES = {
    "all is well": Case("hb cb sa ha ca sb", Proceed(Reason.COMPLETE, (), ())),
    "sent last": Case("ha hb ca cb sa sb", Proceed(Reason.COMPLETE, (), ())),
    "one is lost before its header": Case("lb ha ca sa", Proceed(Reason.LOST, ("b",), ("b",))),
    "one is lost after its header": Case("hb lb ha ca sa", Proceed(Reason.LOST, ("b",), ())),
    "one is lost after its block": Case("hb cb lb ha ca sa", Proceed(Reason.COMPLETE, (), ())),
    "all are lost": Case("la lb", Proceed(Reason.LOST, ("a", "b"), ("a", "b"))),
    "one is late": Case("ha ca sa hb T", Proceed(Reason.DEADLINE, ("b",), (), ("b",))),
    "nobody is heard": Case("T", Proceed(Reason.DEADLINE, ("a", "b"), ("a", "b"), ("a", "b"))),
    "one does not take my block": Case("ha hb ca cb sa T", Proceed(Reason.DEADLINE, (), (), ("b",))),
    "lost and late": Case("la hb T", Proceed(Reason.DEADLINE, ("a", "b"), ("a",), ("b",))),
    "lost twice": Case("la la ha ca hb cb sb", Proceed(Reason.LOST, ("a",), ("a",))),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("early", [True, False])
def test_how_a_step_goes_on(name: str, early: bool) -> None:
    """``early``: everything but the deadline happens while the gradient is still being computed."""
    events, expected = CASES[name].events.split(), CASES[name].proceed
    round_ = Round("ab", 1, half)
    before = [e for e in events if e != "T"] if early else []
    after = [e for e in events if e not in before]

    def happen(event: str) -> list[Action]:
        if event == "T":
            return round_.tick(10.0)
        kind, peer = event[0], event[1]
        if kind == "h":
            round_.header(peer, 2)
            return []
        if kind == "c":
            return round_.chunk(peer) if round_.wants(peer) else []
        return round_.sent(peer) if kind == "s" else round_.lost(peer)

    assert all(happen(event) == [] for event in before)
    actions = round_.half_ready(10.0)
    for number, event in enumerate(after):
        assert not any(isinstance(a, Proceed) for a in actions), f"before {after[number:]}"
        actions += happen(event)
    assert actions[-1] == expected
    assert [a for a in actions if isinstance(a, Proceed)] == [expected]
    assert set(chunks_of(actions)) == {(p, 0) for p in "ab" if p not in expected.missing}


def test_a_slow_neighbour_is_not_waited_for_and_holds_nobody_back() -> None:
    round_ = Round("ab", 2, half, slow="a")
    round_.header("b", 2)
    assert round_.half_ready(10.0) == round_.sent("a") == round_.sent("b") == []
    assert round_.chunk("b") == []
    actions = round_.chunk("b")
    assert chunks_of(actions) == [("b", 0), ("b", 1)]
    assert actions[-1] == Proceed(Reason.SLOW, ("a",), ("a",))


def test_a_slow_neighbour_still_gets_my_block() -> None:
    round_ = Round("a", 1, half, slow="a")
    assert round_.half_ready(10.0) == []
    assert round_.sent("a") == [Proceed(Reason.SLOW, ("a",), ("a",))]


def test_a_slow_neighbour_that_is_heard_is_waited_for() -> None:
    round_ = Round("a", 1, half, slow="a")
    round_.header("a", 1)
    assert round_.half_ready(10.0) == round_.sent("a") == []
    assert round_.chunk("a")[-1] == Proceed(Reason.COMPLETE, (), ())


def test_alone() -> None:
    assert Round("", 3, half).half_ready(0.0) == [Proceed(Reason.ALONE, (), ())]


def test_the_deadline_does_not_count_before_its_time_nor_before_the_half_step() -> None:
    round_ = Round("a", 1, half)
    assert round_.tick(1e9) == []
    assert round_.half_ready(10.0) == []
    assert round_.tick(9.9) == []
    assert round_.tick(10.0) == [Proceed(Reason.DEADLINE, ("a",), ("a",), ("a",))]
    assert round_.tick(11.0) == []


def test_nothing_happens_after_the_end() -> None:
    round_ = started("ab")
    round_.tick(10.0)
    assert not round_.wants("a")
    assert not round_.header("a", 1)
    assert round_.sent("a") == round_.lost("b") == round_.tick(20.0) == []


def test_chunks_wait_for_those_of_lower_ids() -> None:
    round_ = started("abc", chunks=2)
    assert round_.chunk("c") == []
    assert round_.chunk("b") == []
    assert chunks_of(round_.chunk("a")) == [("a", 0), ("b", 0), ("c", 0)]
    assert chunks_of(round_.chunk("a")) == [("a", 1)]
    assert chunks_of(round_.chunk("c")) == []
    assert chunks_of(round_.lost("b")) == [("c", 1)]


def test_a_chunk_is_mixed_with_the_weight_of_both_degrees() -> None:
    asked: list[tuple[int, int]] = []

    def weight(mine: int, theirs: int) -> float:
        asked.append((mine, theirs))
        return 0.125

    round_ = Round("ab", 1, weight)
    assert round_.degree == 2
    assert round_.neighbours == ("a", "b")
    round_.header("a", 7)
    round_.chunk("a")
    assert round_.half_ready(1.0) == [Accumulate("a", 0, 0.125)]
    assert asked == [(2, 7)]
    assert (round_.weight("a"), round_.weight("b"), round_.weight("x")) == (0.125, 0.0, 0.0)


@pytest.mark.parametrize("overlay", ["full", "ring"])
@pytest.mark.parametrize("degrees", [(1, 1), (1, 4), (3, 2), (7, 7)])
def test_both_ends_of_an_edge_come_to_one_weight(overlay: str, degrees: tuple[int, int]) -> None:
    def announced(mine: int, theirs: int) -> float:
        names = [str(i) for i in range(mine)]
        round_ = Round(names, 1, lambda a, b: edge_weight(overlay, a, b))
        round_.header(names[0], theirs)
        return round_.weight(names[0])

    assert announced(*degrees) == announced(*reversed(degrees)) > 0


def test_strangers_and_second_messages_are_not_mixed() -> None:
    round_ = Round("a", 1, half)
    assert not round_.header("x", 1)
    assert not round_.wants("x")
    assert round_.lost("x") == round_.sent("x") == []
    assert round_.header("a", 1)
    assert not round_.header("a", 1)


def test_the_window_holds_back_until_the_half_step_and_then_spills() -> None:
    round_ = Round("ab", 3 * WINDOW, half)
    for peer in "ab":
        round_.header(peer, 2)
    for number in range(WINDOW):
        assert not round_.full("b"), number
        round_.chunk("b")
    assert round_.full("b")
    assert not round_.full("a")
    assert round_.half_ready(10.0) == []
    assert not round_.full("b")
    # Beyond the window b is taken out of turn, the lowest chunk first.
    assert chunks_of(round_.chunk("b")) == [("b", 0)]
    assert chunks_of(round_.chunk("b")) == [("b", 1)]
    assert chunks_of(round_.chunk("a")) == [("a", 0)]
    spilled = chunks_of(round_.lost("a"))
    assert spilled == [("b", number) for number in range(2, WINDOW + 2)]


def test_who_is_out_is_not_held_back() -> None:
    round_ = Round("a", 2 * WINDOW, half)
    round_.header("a", 1)
    for _ in range(WINDOW):
        round_.chunk("a")
    round_.lost("a")
    assert not round_.full("a")


def test_whom_the_round_waits_for() -> None:
    round_ = started("abc")
    assert round_.waiting_for() == ("a", "b", "c")
    round_.chunk("a")
    round_.lost("b")
    assert round_.waiting_for() == ("a", "c")
    round_.sent("a")
    assert round_.waiting_for() == ("c",)


def test_who_is_late_too_often_is_not_waited_for_but_mixed_as_far_as_it_came() -> None:
    round_ = Round("ab", 2, half, tardy="b")
    round_.header("a", 2)
    round_.header("b", 2)
    actions = round_.half_ready(10.0) + round_.chunk("b") + round_.chunk("a") + round_.chunk("a")
    actions += round_.sent("a")
    assert set(chunks_of(actions)) == {("a", 0), ("a", 1), ("b", 0)}
    assert actions[-1] == Proceed(Reason.SLOW, ("b",), ())
