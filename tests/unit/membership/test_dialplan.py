from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from decad.core.constants import MAX_LEARNT
from decad.membership.dialplan import (
    DIALS_AT_ONCE,
    FIRST_DELAY_S,
    FORGET_REACHED_S,
    FORGET_UNREACHED_S,
    LAST_DELAY_S,
    MYSELF_DELAY_S,
    REPLACED_AT_ONCE,
    UNPROVEN_AT_ONCE,
    UNPROVEN_LAST_DELAY_S,
    DialPlan,
)

ME, A, B = "0" * 64, "a" * 64, "b" * 64
HERE, THERE = "10.0.0.1:7700", "10.0.0.2:7700"


def _plan() -> DialPlan:
    return DialPlan(ME, Random(1))


def _fail_until(plan: DialPlan, address: str, start: float, end: float) -> list[float]:
    """Dial whenever it is due and fail; the times of the dials."""
    dials, now = [], start
    while now < end:
        if address in plan.due((), now):
            dials.append(now)
            plan.failed(address, "no answer", now)
        now += 0.05
    return dials


def test_new_address_is_due_at_once_and_once() -> None:
    plan = _plan()
    plan.add(HERE, "peers", 0.0)
    assert plan.due((), 0.0) == [HERE]
    assert plan.due((), 100.0) == []


def test_malformed_address_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="host:port"):
        _plan().add("nowhere", "exchange", 0.0)


def test_delays_double_to_a_cap_with_up_to_half_left_to_chance() -> None:
    plan = _plan()
    plan.add(HERE, "peers", 0.0)
    dials = _fail_until(plan, HERE, 0.0, 120.0)
    gaps = [b - a for a, b in pairwise(dials)]
    for i, gap in enumerate(gaps):
        whole = min(FIRST_DELAY_S * 2**i, LAST_DELAY_S)
        assert whole / 2 <= gap <= whole + 0.06


def test_chance_is_the_generators_alone() -> None:
    def dials(seed: int) -> list[float]:
        plan = DialPlan(ME, Random(seed))
        plan.add(HERE, "peers", 0.0)
        return _fail_until(plan, HERE, 0.0, 30.0)

    assert dials(1) == dials(1)
    assert dials(1) != dials(2)


def test_connected_peer_is_not_dialled_until_its_link_is_gone() -> None:
    plan = _plan()
    plan.add(HERE, "peers", 0.0)
    plan.due((), 0.0)
    plan.reached(HERE, A, 0.0)
    assert plan.due({A}, 60.0) == []
    assert plan.due((), 60.0) == [HERE]


def test_peer_that_hangs_up_at_once_is_not_dialled_in_a_loop() -> None:
    plan = _plan()
    plan.add(HERE, "peers", 0.0)
    plan.due((), 0.0)
    plan.reached(HERE, A, 0.0)
    assert plan.due((), FIRST_DELAY_S / 2 - 0.01) == []


def test_peer_with_two_addresses_is_dialled_at_one_of_them() -> None:
    plan = _plan()
    plan.add(HERE, "mdns", 0.0, A)
    plan.add(THERE, "mdns", 0.0, A)
    assert plan.due((), 0.0) == [HERE]
    plan.failed(HERE, "no route", 0.0)
    assert plan.due((), 0.0) == [THERE]


def test_own_id_is_never_learnt() -> None:
    plan = _plan()
    plan.add(HERE, "exchange", 0.0, ME)
    assert plan.addresses == ()


def test_own_number_is_another_machines_when_this_one_has_a_new_address() -> None:
    plan = _plan()
    plan.add(HERE, "peers", 0.0)
    plan.due((), 0.0)
    plan.was_myself(HERE, 0.0)
    assert plan.due((), MYSELF_DELAY_S - 0.1) == []
    assert plan.due((), MYSELF_DELAY_S) == [HERE]
    plan.reached(HERE, "b", MYSELF_DELAY_S)
    assert not plan.addresses[0].myself


def test_own_name_may_lead_to_somebody_else_the_next_time() -> None:
    plan = _plan()
    plan.add("decad.svc:7700", "peers", 0.0)
    plan.due((), 0.0)
    plan.was_myself("decad.svc:7700", 0.0)
    assert plan.due((), LAST_DELAY_S - 0.1) == []
    assert plan.due((), LAST_DELAY_S) == ["decad.svc:7700"]


def test_the_operators_addresses_go_first_and_are_few_at_a_time() -> None:
    plan = _plan()
    for i in range(100):
        plan.remember(f"10.0.1.{i}:1", f"{i:064}", 0.0)
    plan.add(HERE, "peers", 1.0)
    first = plan.due((), 1.0)
    assert first[0] == HERE
    assert len(first) == DIALS_AT_ONCE
    plan.failed(HERE, "no answer", 1.0)
    assert len(plan.due((), 1.0)) == 1


def test_of_addresses_that_nobody_proved_few_are_dialled_and_ever_more_rarely() -> None:
    plan = _plan()
    for i in range(1000):
        plan.add(f"10.0.{i // 250}.{i % 250}:22", "exchange", 0.0, f"{i:064}")
    dialled, now = 0, 0.0
    while now < 60.0:
        # Each takes five seconds to fail, and whoever invented them goes on naming them.
        due = plan.due((), now)
        assert sum(entry.dialling for entry in plan.addresses) <= UNPROVEN_AT_ONCE
        dialled += len(due)
        now += 5.0
        for address in due:
            plan.failed(address, "no answer", now)
            plan.add(address, "mdns", now)
    assert dialled <= UNPROVEN_AT_ONCE * 12


def test_an_unproven_address_that_fails_is_dialled_ever_more_rarely() -> None:
    plan = _plan()
    plan.add(HERE, "exchange", 0.0, A)
    dials = _fail_until(plan, HERE, 0.0, FORGET_UNREACHED_S)
    assert len(dials) <= 14
    assert dials[-1] - dials[-2] > UNPROVEN_LAST_DELAY_S / 3


def test_learnt_address_where_nobody_ever_was_is_forgotten() -> None:
    plan = _plan()
    plan.add(HERE, "exchange", 0.0, A)
    dials = _fail_until(plan, HERE, 0.0, FORGET_UNREACHED_S + 60)
    assert plan.addresses == ()
    assert dials[-1] < FORGET_UNREACHED_S


def test_learnt_address_where_a_peer_was_outlasts_a_night() -> None:
    plan = _plan()
    plan.add(HERE, "exchange", 0.0, A)
    plan.due((), 0.0)
    plan.reached(HERE, A, 0.0)
    plan.due((), 1.0)
    plan.failed(HERE, "no answer", 1.0)
    assert plan.due((), FORGET_REACHED_S) == [HERE]
    plan.failed(HERE, "no answer", FORGET_REACHED_S)
    assert plan.due((), FORGET_REACHED_S + 60) == []
    assert plan.addresses == ()


def test_the_operators_address_is_never_forgotten_even_if_learnt_before() -> None:
    plan = _plan()
    plan.add(HERE, "exchange", 0.0, A)
    plan.add(HERE, "peers", 0.0)
    plan.add(HERE, "mdns", 0.0, A)
    plan.withdrawn([HERE])
    _fail_until(plan, HERE, 0.0, 20.0)
    assert plan.due((), 1e9) == [HERE]
    assert plan.addresses[0].found == "peers"


def test_announced_address_is_kept_until_it_is_withdrawn() -> None:
    plan = _plan()
    plan.add(HERE, "mdns", 0.0, A)
    plan.due((), 0.0)
    plan.failed(HERE, "no answer", 0.0)
    assert plan.due((), 1e6) == [HERE]
    plan.failed(HERE, "no answer", 1e6)
    plan.withdrawn([HERE])
    assert plan.due((), 2e6) == []
    assert plan.addresses == ()


def test_fresh_announcement_makes_a_failing_address_due() -> None:
    plan = _plan()
    plan.add(HERE, "mdns", 0.0, A)
    last = _fail_until(plan, HERE, 0.0, 60.0)[-1]
    plan.add(HERE, "mdns", last + 0.01, A)
    assert plan.due((), last + 0.01) == [], (
        "whoever invents announcements does not decide how often it is dialled"
    )
    assert plan.due((), last + LAST_DELAY_S) == [HERE]


def test_hearsay_does_not_hurry_a_failing_address() -> None:
    plan = _plan()
    plan.add(HERE, "exchange", 0.0, A)
    last = _fail_until(plan, HERE, 0.0, 60.0)[-1]
    plan.add(HERE, "exchange", last + 0.01, A)
    assert plan.due((), last + 0.01) == []


def test_hearsay_does_not_overrule_who_was_reached() -> None:
    plan = _plan()
    plan.add(HERE, "peers", 0.0)
    plan.due((), 0.0)
    plan.reached(HERE, A, 0.0)
    plan.add(HERE, "exchange", 0.0, B)
    assert plan.addresses[0].peer == A


def test_crowd_of_learnt_addresses_is_bounded_and_gives_way_where_it_failed() -> None:
    plan = _plan()
    for i in range(MAX_LEARNT + 50):
        plan.add(f"10.1.{i // 256}.{i % 256}:1", "exchange", 0.0)
    assert len(plan.addresses) == MAX_LEARNT
    failing = plan.due((), 0.0)[0]
    plan.failed(failing, "no answer", 0.0)
    plan.add(THERE, "exchange", 1.0)
    known = {entry.address for entry in plan.addresses}
    assert THERE in known
    assert failing not in known
    plan.add(HERE, "peers", 0.0)
    assert len(plan.addresses) == MAX_LEARNT + 1


def test_result_for_a_forgotten_address_is_ignored() -> None:
    plan = _plan()
    plan.failed(HERE, "no answer", 0.0)
    plan.reached(HERE, A, 0.0)
    plan.was_myself(HERE, 0.0)
    assert plan.addresses == ()


def test_a_remembered_address_is_dialled_and_forgotten_like_one_where_a_peer_was_reached() -> None:
    plan = _plan()
    plan.remember(HERE, A, 0.0)
    (entry,) = plan.addresses
    assert (entry.found, entry.peer, entry.reached) == ("exchange", A, True)
    assert _fail_until(plan, HERE, 0.0, FORGET_UNREACHED_S + 60)[-1] > FORGET_UNREACHED_S


def test_a_remembered_address_stays_the_operators_where_it_is_given_again() -> None:
    plan = _plan()
    plan.add(HERE, "peers", 0.0)
    plan.remember(HERE, A, 0.0)
    (entry,) = plan.addresses
    assert (entry.found, entry.peer, entry.reached) == ("peers", None, False)


def test_of_a_long_list_few_take_the_place_of_others() -> None:
    plan = _plan()
    for number in range(MAX_LEARNT):
        plan.add(f"192.0.2.{number % 250}:{1000 + number}", "exchange", 0.0)
    for _ in range(MAX_LEARNT // 4):
        for address in plan.due((), 0.0):
            plan.failed(address, "no answer", 0.0)
    before = {entry.address for entry in plan.addresses}
    for number in range(500):
        plan.add(f"198.51.100.1:{1000 + number}", "exchange", 1.0)
    assert len(plan.addresses) == MAX_LEARNT
    assert len(before - {entry.address for entry in plan.addresses}) == REPLACED_AT_ONCE
