"""Whatever the order in which things happen, a round mixes each chunk once, in one order, and ends once."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from decad.core.overlay import edge_weight
from decad.core.round import WINDOW, Accumulate, Action, Proceed, Reason, Round

DEADLINE = 1.0


class Story(NamedTuple):
    """What happens in one round: an interleaving of what each neighbour does, and my half-step."""

    chunks: int
    scripts: dict[str, list[str]]
    """Neighbour -> its events in order: header, chunk, lost; sent is mine."""
    order: list[str]
    """Whose next event it is; "" is my half-step."""
    slow: frozenset[str] = frozenset()
    """Neighbours that are not waited for until they are heard."""


@st.composite
def stories(draw: st.DrawFn, most_chunks: int = 6) -> Story:
    chunks = draw(st.integers(1, most_chunks))
    scripts: dict[str, list[str]] = {}
    for peer in "abcde"[: draw(st.integers(0, 5))]:
        script = ["header"] * draw(st.integers(0, 1))
        if script:
            script += ["chunk"] * draw(st.one_of(st.just(chunks), st.integers(0, chunks)))
        for event in ("sent", "lost"):
            if draw(st.booleans()):
                script.insert(draw(st.integers(0, len(script))), event)
        scripts[peer] = script
    turns = [peer for peer, script in scripts.items() for _ in script] + [""]
    slow = frozenset(peer for peer in scripts if draw(st.booleans()))
    return Story(chunks, scripts, draw(st.permutations(turns)), slow)


class Told(NamedTuple):
    actions: list[Action]
    came: Counter[str]
    """Chunks that the round wanted, by neighbour."""
    held: int
    """The most chunks of one neighbour that were held after the half-step."""


def tell(story: Story) -> Told:
    """Play a story; after the last event the deadline passes."""
    round_ = Round(
        story.scripts, story.chunks, lambda mine, theirs: edge_weight("ring", mine, theirs), story.slow
    )
    scripts = {peer: iter(script) for peer, script in story.scripts.items()}
    actions: list[Action] = []
    came: Counter[str] = Counter()
    mixed: Counter[str] = Counter()
    held, half_done = 0, False
    for peer in story.order:
        event = next(scripts[peer]) if peer else "half"
        following: list[Action] = []
        if event == "half":
            following, half_done = round_.half_ready(DEADLINE), True
        elif event == "header":
            round_.header(peer, 3)
        elif event == "chunk" and round_.wants(peer):
            came[peer] += 1
            following = round_.chunk(peer)
        elif event == "sent":
            following = round_.sent(peer)
        elif event == "lost":
            following = round_.lost(peer)
        assert half_done or following == []
        actions += following
        mixed.update(a.neighbour for a in following if isinstance(a, Accumulate))
        if half_done:
            held = max([held, *(came[p] - mixed[p] for p in scripts)])
    actions += round_.tick(DEADLINE)
    return Told(actions, came, held)


@given(stories())
def test_a_round_ends_once_and_names_who_is_missing(story: Story) -> None:
    actions, came, _ = tell(story)
    proceed = actions[-1]
    assert isinstance(proceed, Proceed)
    assert sum(isinstance(a, Proceed) for a in actions) == 1
    assert proceed.missing == tuple(p for p in story.scripts if came[p] < story.chunks)
    assert set(proceed.unheard) <= set(proceed.missing)
    assert (proceed.reason is Reason.ALONE) == (not story.scripts)
    assert not (proceed.reason is Reason.COMPLETE and proceed.missing)
    assert proceed.reason is not Reason.SLOW or set(proceed.missing) <= story.slow


@given(stories())
def test_every_chunk_that_came_in_time_is_mixed_once(story: Story) -> None:
    actions, came, _ = tell(story)
    mixed = Counter((a.neighbour, a.chunk) for a in actions if isinstance(a, Accumulate))
    assert mixed == Counter((peer, chunk) for peer in came for chunk in range(came[peer]))


@given(stories())
def test_chunks_are_added_in_the_order_of_ids(story: Story) -> None:
    mixed = [a for a in tell(story).actions if isinstance(a, Accumulate)]
    for chunk in range(story.chunks):
        ids = [a.neighbour for a in mixed if a.chunk == chunk]
        assert ids == sorted(ids)
    for peer in story.scripts:
        chunks = [a.chunk for a in mixed if a.neighbour == peer]
        assert chunks == sorted(chunks)


@given(stories(), st.data())
def test_a_sum_does_not_depend_on_the_interleaving(story: Story, data: st.DataObject) -> None:
    """Unless somebody is lost, or slow and not waited for: then his part of it may be."""
    kept = {peer: [e for e in script if e != "lost"] for peer, script in story.scripts.items()}
    turns = [peer for peer, script in kept.items() for _ in script] + [""]

    def order_of_sums(order: list[str]) -> dict[int, list[str]]:
        actions = tell(Story(story.chunks, kept, order)).actions
        mixed = [a for a in actions if isinstance(a, Accumulate)]
        return {c: [a.neighbour for a in mixed if a.chunk == c] for c in range(story.chunks)}

    assert order_of_sums(turns) == order_of_sums(data.draw(st.permutations(turns)))


@given(stories(most_chunks=3 * WINDOW))
def test_a_window_bounds_what_is_held_and_loses_nothing(story: Story) -> None:
    actions, came, held = tell(story)
    mixed = Counter((a.neighbour, a.chunk) for a in actions if isinstance(a, Accumulate))
    assert mixed == Counter((peer, chunk) for peer in came for chunk in range(came[peer]))
    assert held <= WINDOW
