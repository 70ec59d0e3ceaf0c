"""Every parser on what fuzzing has found, on sound inputs that were damaged, and on random bytes."""

from __future__ import annotations

import random

import pytest
from fuzz.run import read
from fuzz.targets import targets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TARGETS = targets()


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_is_taken_or_refused(name: str) -> None:
    kept = read(name)
    assert kept, "no corpus: make fuzz"
    for data in [*TARGETS[name].seeds, *kept]:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_taken_or_refused(name: str) -> None:
    chance = random.Random(name)
    for seed in TARGETS[name].seeds:
        for _ in range(20 if name == "pake" else 200):
            data = bytearray(seed)
            for _ in range(chance.randint(1, 4)):
                place = chance.randrange(len(data) + 1)
                match chance.randrange(3):
                    case 0:
                        data[place : place + 1] = bytes([chance.randrange(256)])
                    case 1:
                        del data[place : place + chance.randint(1, 8)]
                    case _:
                        data[place:place] = chance.randbytes(chance.randint(1, 8))
            TARGETS[name](bytes(data))


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(max_size=300))
def test_random_bytes_are_taken_or_refused(name: str, data: bytes) -> None:
    TARGETS[name](data)


def test_a_fault_would_be_seen() -> None:
    with pytest.raises(IndexError):
        TARGETS["block"]._replace(take=lambda data: data[10**6])(b"x")
