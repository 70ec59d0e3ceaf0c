from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from decad.core.schedule import Order, Schedule, learning_rate

ORDERS: list[Order] = ["descending", "ascending", "shuffled"]
shapes = {
    "blocks": st.integers(1, 12),
    "inner_steps": st.integers(1, 7),
    "order": st.sampled_from(ORDERS),
    "seed": st.integers(0, 2**63 - 1),
}
schedules = st.builds(Schedule, **shapes)
"""Without an end."""
ending = st.builds(Schedule, **shapes, end=st.integers(0, 200), settle=st.integers(0, 5))


@settings(deadline=None)
@given(ending, st.integers(0, 400))
def test_phases_are_runs_of_steps_of_one_block(schedule: Schedule, step: int) -> None:
    here = schedule.position(step)
    steps = schedule.steps_of(here.phase)
    assert steps[here.inner] == step
    places = [schedule.position(s) for s in steps]
    assert {(p.round, p.phase, p.block) for p in places} == {(here.round, here.phase, here.block)}
    assert {schedule.settles(s) for s in steps} == {schedule.settles(step)}
    assert schedule.position(steps[-1] + 1)[2] == here.phase + 1
    assert schedule.position(steps[-1] + 1).inner == 0


@settings(deadline=None)
@given(ending)
def test_settling_visits_every_block_once(schedule: Schedule) -> None:
    settling = [schedule.position(step) for step in range(schedule.end, schedule.over)]
    each = [schedule.settle] * schedule.blocks if schedule.over else []
    assert [sum(p.block == block for p in settling) for block in range(schedule.blocks)][: len(each)] == each
    assert len({p.round for p in settling}) <= 1
    assert not any(schedule.settles(step) for step in range(schedule.end))


@settings(deadline=None)
@given(schedules, st.integers(0, 50))
def test_a_round_visits_every_block_once(schedule: Schedule, round_: int) -> None:
    first = round_ * schedule.steps_per_round
    phases = range(first, first + schedule.steps_per_round, schedule.inner_steps)
    positions = [schedule.position(step) for step in phases]
    assert sorted(p.block for p in positions) == list(range(schedule.blocks))
    assert {p.round for p in positions} == {round_}


@settings(deadline=None)
@given(schedules, st.integers(0, 10_000))
def test_a_phase_is_r_steps_of_one_block(schedule: Schedule, step: int) -> None:
    here = schedule.position(step)
    start = schedule.position(step - here.inner)
    assert here == start._replace(step=step, inner=here.inner)
    assert start.step == here.phase * schedule.inner_steps
    assert 0 <= here.inner < schedule.inner_steps


@settings(deadline=None)
@given(ending, st.integers(0, 300), st.data())
def test_last_phase_agrees_with_brute_force(schedule: Schedule, step: int, data: st.DataObject) -> None:
    block = data.draw(st.integers(0, schedule.blocks - 1))
    ended = [
        phase
        for phase in range(schedule.position(step).phase)
        if schedule.position(schedule.steps_of(phase)[0]).block == block
    ]
    assert schedule.last_phase(block, step) == (ended[-1] if ended else None)


@settings(deadline=None)
@given(ending, st.integers(0, 300))
def test_the_latest_phases_are_those_of_the_steps_taken(schedule: Schedule, step: int) -> None:
    taken = map(schedule.position, range(step))
    assert schedule.latest_phases(step) == {position.block: position.phase for position in taken}


@settings(deadline=None)
@given(
    st.sampled_from(["linear", "cosine"]),
    st.integers(1, 1000),
    st.floats(0, 1),
    st.floats(1e-6, 1),
    st.data(),
)
def test_a_rate_falls_from_its_peak_to_its_floor(
    kind: str, horizon: int, floor: float, peak: float, data: st.DataObject
) -> None:
    rate = learning_rate(f"{kind}:{horizon}:{floor}", peak)
    step = data.draw(st.integers(0, 2 * horizon))
    slack = 1e-12 * peak
    assert abs(rate(0) - peak) <= slack
    assert peak * floor - slack <= rate(step + 1) <= rate(step) + slack
    assert abs(rate(horizon) - peak * floor) <= slack
