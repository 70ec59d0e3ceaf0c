from __future__ import annotations

import pytest

from decad.errors import ConfigError
from decad.lab.faults import Faults

NAMES = ("a", "b", "c")


def test_steps_from_the_first_to_before_the_last() -> None:
    faults = Faults(["away:b:0:3", "late:a:2:4"], NAMES, 0)
    assert [sorted(faults.away(step)) for step in range(4)] == [["b"], ["b"], ["b"], []]
    assert [sorted(faults.late(step)) for step in range(5)] == [[], [], ["a"], ["a"], []]


def test_draws_last_as_long_as_they_say_and_depend_on_the_seed() -> None:
    names = tuple(f"p{i}" for i in range(100))
    faults = Faults(["random-away:0.3:5"], names, 1)
    assert faults.away(0) == faults.away(4) != faults.away(5)
    assert 15 < len(faults.away(0)) < 45
    assert Faults(["random-away:0.3:5"], names, 2).away(0) != faults.away(0)


@pytest.mark.parametrize(
    "rule", ["away:x:0:1", "away:a:0", "late:a:b:c", "random-away:0.5", "random-late:2", "gone:a:0:1", ""]
)
def test_what_is_no_rule_is_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match="faults:"):
        Faults([rule], NAMES, 0)
