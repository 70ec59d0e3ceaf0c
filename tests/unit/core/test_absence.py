"""Who seems to train and brings nothing: counted out of most steps, until it brings something."""

from __future__ import annotations

from decad.core.absence import LEAST_S, PROBE, REMEMBERED, Absence


def absent(*names: str) -> Absence:
    absence = Absence()
    for _ in range(PROBE):
        absence.counted(names, 0.0)
    return absence


def test_it_takes_steps_and_time() -> None:
    absence = Absence()
    for _ in range(PROBE - 1):
        absence.counted("n", 0.0)
    assert not absence.absent("n", LEAST_S)
    absence.counted("n", 1.0)
    assert not absence.absent("n", LEAST_S - 0.1)
    assert absence.absent("n", LEAST_S)
    assert not absence.absent("other", LEAST_S)


def test_it_is_counted_on_in_every_64th_step() -> None:
    absence = absent("n")
    assert [step for step in range(200) if absence.counts("n", step, LEAST_S)] == [0, 64, 128, 192]


def test_one_whole_message_is_enough_to_count_again() -> None:
    absence = absent("n")
    absence.brought("n")
    absence.counted("n", LEAST_S)
    assert absence.counts("n", 1, 10 * LEAST_S)


def test_what_it_remembers_is_bounded() -> None:
    absence = absent("first")
    absence.counted([str(number) for number in range(REMEMBERED)], 0.0)
    assert not absence.absent("first", LEAST_S)
    assert len(absence._without) == REMEMBERED
