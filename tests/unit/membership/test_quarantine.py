"""How long an offender is kept away."""

from __future__ import annotations

from decad.membership.quarantine import FIRST_PAUSE_S, FORGIVEN_S, KEPT, LONGEST_PAUSE_S, Quarantine


def test_each_offence_doubles_the_pause_up_to_an_hour() -> None:
    quarantine, now = Quarantine(), 0.0
    for expected in (FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S):
        assert quarantine.offended("p", "it sent nonsense", now) == expected
        assert "sent nonsense" in quarantine.objection("p", now + expected - 1)
        now += expected
        assert quarantine.objection("p", now) == ""
    assert max(quarantine.offended("p", "again", now) for _ in range(20)) == LONGEST_PAUSE_S


def test_who_behaves_for_an_hour_begins_anew() -> None:
    quarantine = Quarantine()
    quarantine.offended("p", "why", 0.0)
    assert quarantine.offended("p", "why", FIRST_PAUSE_S + FORGIVEN_S) == FIRST_PAUSE_S


def test_of_offenders_without_end_the_oldest_are_forgotten() -> None:
    quarantine = Quarantine()
    for number in range(KEPT + 1):
        quarantine.offended(str(number), "why", 0.0)
    assert not quarantine.objection("0", 1.0)
    assert quarantine.objection("1", 1.0)


def test_others_are_not_kept_away() -> None:
    quarantine = Quarantine()
    quarantine.offended("p", "why", 0.0)
    assert quarantine.objection("q", 0.0) == ""
