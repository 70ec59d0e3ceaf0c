from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest

from decad.membership.suspicion import BEACON_S
from decad.membership.table import GONE_KEPT, LINK_GRACE_S, PeerTable, Stage, State, Transition

ALIVE, SUSPECT, GONE = State.ALIVE, State.SUSPECT, State.GONE
LINK = "link 1"


def _states(transitions: Iterable[Transition]) -> list[tuple[str, State, State]]:
    return [(t.peer, t.old, t.new) for t in transitions]


def _up(
    table: PeerTable, now: float, peer: str = "a", link: str = LINK, instance: int = 1
) -> list[Transition]:
    return table.link_up(peer, link, now, name="", address="h:1", found="mdns", instance=instance)


def _heard(table: PeerTable, now: float) -> list[Transition]:
    return table.heard("a", now, step=0, stage=Stage.TRAINING)


def _alive() -> PeerTable:
    table = PeerTable(0.0)
    _up(table, 0.0)
    return table


def _silence(table: PeerTable, start: float, end: float) -> list[tuple[float, State]]:
    """Tick every BEACON_S; what happened and when, relative to ``start``."""
    ticks = range(1, int((end - start) / BEACON_S) + 1)
    return [(i * BEACON_S, t.new) for i in ticks for t in table.tick(start + i * BEACON_S)]


def test_first_link_makes_a_peer_alive() -> None:
    assert _states(_up(PeerTable(0.0), 0.0)) == [("a", GONE, ALIVE)]


def test_silent_peer_is_gone_within_5_s() -> None:
    table = _alive()
    for i in range(1, 21):
        _heard(table, i * BEACON_S)
        assert table.tick(i * BEACON_S) == []
    assert _silence(table, 10.0, 20.0) == [(2.0, SUSPECT), (4.0, GONE)]


def test_busy_peer_with_gaps_up_to_1500_ms_is_never_suspected() -> None:
    table, random, now, beacon = _alive(), Random(7), 0.0, 0.0
    while now < 600.0:
        beacon += random.choice([0.5, 0.5, 0.7, 1.5])
        while now < beacon:
            now += 0.1
            assert table.tick(now) == []
        _heard(table, now)


def test_suspect_that_is_heard_is_alive() -> None:
    table = _alive()
    _silence(table, 0.0, 3.0)
    assert _states(_heard(table, 3.0)) == [("a", SUSPECT, ALIVE)]


def test_who_sends_a_block_is_not_suspected_for_beacons_that_stand_behind_it() -> None:
    table = _alive()
    for i in range(1, 41):
        assert table.seen("a", i * 1.5) == []
        assert table.tick(i * 1.5) == []
    assert _silence(table, 60.0, 70.0) == [(2.0, SUSPECT), (4.0, GONE)]
    assert table.seen("a", 70.0) == []


def test_a_suspect_that_sends_a_block_is_alive() -> None:
    table = _alive()
    assert _silence(table, 0.0, 2.0) == [(2.0, SUSPECT)]
    assert _states(table.seen("a", 2.5)) == [("a", SUSPECT, ALIVE)]


def test_a_flood_of_chunks_does_not_shorten_the_patience_with_beacons() -> None:
    table = _alive()
    for i in range(1, 31):  # a beacon every 1.9 s, and chunks at its end
        for j in range(10):
            table.seen("a", i * 1.9 - 0.01 * j)
        _heard(table, i * 1.9)
    patient = _alive()
    for i in range(1, 31):
        _heard(patient, i * 1.9)
    assert _silence(table, 57.0, 70.0) == _silence(patient, 57.0, 70.0)


def test_closed_link_makes_suspect_at_once_and_gone_after_the_grace() -> None:
    table = _alive()
    assert _states(table.link_down("a", LINK, "reset", 0.1)) == [("a", ALIVE, SUSPECT)]
    assert _silence(table, 0.1, 5.0) == [(LINK_GRACE_S, GONE)]
    assert table["a"].reason == "its link closed: reset; it did not come back"


def test_link_that_returns_within_the_grace_saves_the_peer() -> None:
    table = _alive()
    table.link_down("a", LINK, "reset", 0.1)
    assert _states(_up(table, 1.0, link="link 2")) == [("a", SUSPECT, ALIVE)]
    assert table.tick(1.9) == []


def test_beacon_from_a_closed_link_changes_nothing() -> None:
    table = _alive()
    table.link_down("a", LINK, "reset", 0.1)
    assert _heard(table, 0.2) == []
    assert table["a"].state is SUSPECT


def test_end_of_a_link_that_was_replaced_changes_nothing() -> None:
    table = _alive()
    assert _up(table, 0.1, link="link 2") == []
    assert table.link_down("a", LINK, "duplicate", 0.2) == []
    assert table["a"].state is ALIVE


def test_goodbye_is_gone_at_once_and_late_messages_change_nothing() -> None:
    table = _alive()
    assert _states(table.goodbye("a", "stopped", 1.0)) == [("a", ALIVE, GONE)]
    assert table.goodbye("a", "stopped", 1.1) == []
    assert _heard(table, 1.1) == []
    assert table.link_down("a", LINK, "closed", 1.2) == []
    assert table["a"].reason == "it said goodbye: stopped"


def test_gone_by_silence_takes_a_new_link_to_come_back() -> None:
    table = _alive()
    _silence(table, 0.0, 5.0)
    assert _heard(table, 5.0) == []
    assert table.linked == frozenset()
    assert _states(_up(table, 6.0, link="link 2")) == [("a", GONE, ALIVE)]


def test_restart_passes_through_gone_and_leaves_nothing_of_the_old_self() -> None:
    table = _alive()
    table.heard("a", 0.1, step=9, stage=Stage.TRAINING, round_trip_s=0.002)
    table.viewed("a", frozenset({"b"}))
    made = _up(table, 0.2, link="link 2", instance=2)
    assert _states(made) == [("a", ALIVE, GONE), ("a", GONE, ALIVE)]
    peer = table["a"]
    assert (peer.instance, peer.step, peer.stage, peer.view) == (2, 0, Stage.AWAY, frozenset())
    assert peer.round_trip_s is None


def test_own_stall_is_held_against_nobody() -> None:
    table = _alive()
    assert table.tick(0.5) == []
    assert table.tick(3600.0) == []
    assert _heard(table, 3600.1) == []


def test_own_stall_does_not_save_a_peer_for_long() -> None:
    table = _alive()
    table.tick(3600.0)
    assert [state for _, state in _silence(table, 3600.0, 3605.0)] == [SUSPECT, GONE]


def test_beacon_tells_where_the_peer_is() -> None:
    table = _alive()
    table.heard("a", 1.0, step=7, stage=Stage.TRAINING, round_trip_s=0.003)
    table.heard("a", 1.5, step=8, stage=Stage.TRAINING)
    peer = table["a"]
    assert (peer.step, peer.stage, peer.last_seen, peer.round_trip_s) == (8, Stage.TRAINING, 1.5, 0.003)


def test_view_is_of_those_alive_and_training() -> None:
    table = PeerTable(0.0)
    for peer in "abc":
        _up(table, 0.0, peer)
    table.heard("a", 0.1, step=0, stage=Stage.TRAINING)
    table.heard("b", 0.1, step=0, stage=Stage.AWAY)
    table.heard("c", 0.1, step=0, stage=Stage.TRAINING)
    table.link_down("c", LINK, "reset", 0.2)
    assert table.mixing == {"a"}
    assert table.linked == {"a", "b"}


def test_who_is_gone_holds_no_view() -> None:
    table = _alive()
    table.viewed("a", frozenset({"b"}))
    table.goodbye("a", "", 1.0)
    assert table["a"].view == frozenset()


def test_unknown_peers_are_ignored() -> None:
    table = PeerTable(0.0)
    assert _heard(table, 0.0) == []
    assert table.link_down("a", LINK, "reset", 0.0) == []
    assert table.goodbye("a", "", 0.0) == []
    table.viewed("a", frozenset())
    assert table.peers == ()


def test_a_crowd_that_came_and_went_is_forgotten_oldest_first() -> None:
    table = PeerTable(0.0)
    _up(table, 0.0, "stays")
    for i in range(GONE_KEPT + 10):
        _up(table, float(i), f"{i:04}")
        table.goodbye(f"{i:04}", "", float(i))
    assert len(table.peers) == GONE_KEPT + 1
    assert "stays" in table
    assert "0009" not in table
    assert "0010" in table


def test_unknown_peer_has_no_record() -> None:
    with pytest.raises(KeyError):
        PeerTable(0.0)["a"]
