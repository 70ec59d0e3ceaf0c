"""Host copies of what travels: none on the CPU, plain copies for a device without streams."""

from __future__ import annotations

import torch

from decad.core.section import Section
from decad.daemon.staging import Staging

SIZES = {Section.BLOCK: 6, Section.SECOND: 2}
CPU = torch.device("cpu")


def test_on_the_cpu_nothing_is_copied() -> None:
    staging = Staging(CPU, SIZES)
    values = {section: torch.arange(size, dtype=torch.float32) for section, size in SIZES.items()}
    for moved in (staging.to_host(values), staging.to_device(values)):
        assert moved is not values
        assert {s: v.data_ptr() for s, v in moved.items()} == {s: v.data_ptr() for s, v in values.items()}


def test_on_the_cpu_the_gradient_serves_as_the_blocks_accumulator() -> None:
    gradient = torch.ones(6)
    accumulators = Staging(CPU, SIZES).accumulators(gradient)
    assert accumulators[Section.BLOCK].data_ptr() == gradient.data_ptr()
    assert {s: a.tolist() for s, a in accumulators.items()} == {s: [0.0] * n for s, n in SIZES.items()}


def test_accumulators_of_two_steps_are_not_the_same_memory() -> None:
    staging = Staging(CPU, SIZES)
    first, second = staging.accumulators(torch.ones(6)), staging.accumulators(torch.ones(6))
    assert first[Section.SECOND].data_ptr() != second[Section.SECOND].data_ptr()


def test_another_device_gets_accumulators_on_the_host() -> None:
    gradient = torch.ones(6, device="meta")
    accumulators = Staging(torch.device("meta"), SIZES).accumulators(gradient)
    assert {a.device.type for a in accumulators.values()} == {"cpu"}
    assert [accumulators[s].tolist() for s in sorted(SIZES)] == [[0.0] * 6, [0.0] * 2]


def test_what_was_mixed_goes_back_to_the_device() -> None:
    moved = Staging(torch.device("meta"), SIZES).to_device({Section.BLOCK: torch.ones(6)})
    assert moved[Section.BLOCK].device.type == "meta"
