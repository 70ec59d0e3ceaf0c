"""Verdicts on peers: what holds, what spreads, what is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from decad.errors import StateError
from decad.membership.identity import Identity
from decad.trust.proof import NotProvedError
from decad.trust.roster import Roster, Verdict, matching, pronounce

ADMIN, MEMBER = Identity.generate(), Identity.generate()
ADMINS = frozenset({ADMIN.peer_id})
A, B = "a1" * 32, "b2" * 32
BAD_HEX = '{"verdicts": [["a1", false, 1, "no hex", ""]]}'


@pytest.fixture
def roster(tmp_path: Path) -> Roster:
    return Roster(tmp_path)


def test_everybody_may_until_denied(roster: Roster) -> None:
    assert roster.objection(A) == ""
    roster.deny(A)
    assert "denied" in roster.objection(A)
    assert roster.objection(B) == ""
    roster.allow(A)
    assert roster.objection(A) == ""


def test_with_a_list_only_the_listed_may(roster: Roster) -> None:
    roster.list_only(True)
    roster.allow(A)
    assert roster.objection(A) == ""
    assert "not on the list" in roster.objection(B)


def test_an_admins_verdict_binds_and_the_latest_holds(roster: Roster) -> None:
    first, second = pronounce(ADMIN, A, allowed=False), pronounce(ADMIN, A, allowed=True)
    roster.allow(A)
    assert roster.learn([first], ADMINS) == [first]
    assert "denied" in roster.objection(A)
    assert roster.learn([first], ADMINS) == []
    assert roster.learn([second], ADMINS) == [second]
    assert roster.objection(A) == ""
    assert roster.learn([first], ADMINS) == [], "an older one changes nothing"
    assert roster.objection(A) == ""


def test_a_verdict_of_somebody_who_is_no_admin_is_passed_over(roster: Roster) -> None:
    assert roster.learn([pronounce(MEMBER, A, allowed=False)], ADMINS) == []
    assert roster.objection(A) == ""


@pytest.mark.parametrize(
    "forged",
    [
        pronounce(ADMIN, B, allowed=False)._replace(peer=A),
        pronounce(ADMIN, A, allowed=True)._replace(allowed=False),
        pronounce(ADMIN, A, allowed=False)._replace(number=2**63),
        pronounce(MEMBER, A, allowed=False)._replace(statement=pronounce(ADMIN, A, allowed=False).statement),
    ],
    ids=["about another", "the opposite", "renumbered", "signature of another time"],
)
def test_a_forged_verdict_is_an_offence_and_nothing_beside_it_is_kept(
    roster: Roster, forged: Verdict
) -> None:
    with pytest.raises(NotProvedError):
        roster.learn([pronounce(ADMIN, B, allowed=False), forged], ADMINS)
    assert roster.objection(A) == roster.objection(B) == ""


def test_what_a_command_and_the_daemon_write_at_once_is_all_kept(roster: Roster, tmp_path: Path) -> None:
    daemon = Roster(tmp_path)
    roster.deny(A)
    daemon.learn([pronounce(ADMIN, B, allowed=False)], ADMINS)  # it has not looked at the file since
    roster.list_only(True)
    for one in (roster, daemon, Roster(tmp_path)):
        one.refresh()
        assert one.denied == {A, B}
        assert one.only_listed


def test_the_file_is_read_anew_and_survives(roster: Roster, tmp_path: Path) -> None:
    other = Roster(tmp_path)
    roster.deny(A)
    roster.learn([pronounce(ADMIN, B, allowed=False)], ADMINS)
    assert other.refresh()
    assert not other.refresh()
    assert other.denied == {A, B}
    assert [verdict.peer for verdict in other.verdicts()] == [B]
    assert roster.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "text", ["", "[]", '{"denied": ["xyz"]}', '{"unknown": 1}', '{"verdicts": [["a"]]}', BAD_HEX]
)
def test_a_damaged_file_lets_nobody_slip_through(tmp_path: Path, text: str) -> None:
    (tmp_path / "peers.json").write_text(text)
    with pytest.raises(StateError, match="cannot be read"):
        Roster(tmp_path)


def test_a_prefix_names_one_peer_or_none() -> None:
    assert matching([A, B], "a1a1a1a1") == A
    assert matching([], B) == B
    for prefix in ("a1", "c3c3c3c3"):
        with pytest.raises(StateError, match="names no peer"):
            matching([A, B], prefix)
