"""How far one neighbour can pull in a step, with `robust = clip`."""

from __future__ import annotations

import pytest
import torch

from decad.core.clipping import Clipping, absurd_beyond
from decad.core.coding import decoder
from decad.core.constants import ADAM_STEP
from decad.core.mixing import Mixer
from decad.core.section import Section
from decad.errors import PoisonError

RATE, N = 0.01, 100
OWN = torch.ones(N)


def mixed(clipping: Clipping, others: dict[str, torch.Tensor]) -> torch.Tensor:
    public = {Section.BLOCK: OWN}
    mixer = Mixer({Section.BLOCK: torch.zeros(N)}, N, public, clipping.step(0, RATE, len(others)))
    for name, values in others.items():
        mixer.add(name, Section.BLOCK, 0, 0.25, values)
    return mixer.finish()[Section.BLOCK]


def test_what_an_adam_step_can_do_is_taken_whole() -> None:
    others = dict.fromkeys("abc", OWN + RATE)
    assert torch.allclose(mixed(Clipping(), others), torch.full((N,), 0.75 * RATE), rtol=1e-3)


def test_one_that_is_far_from_all_pulls_no_further_than_what_is_usual() -> None:
    clipping = Clipping()
    others = {"a": OWN + RATE, "b": OWN - RATE, "c": OWN * 1000}
    for _ in range(5):
        pulled = float(torch.linalg.vector_norm(mixed(clipping, others)))
        assert pulled <= 0.25 * (4 * RATE + 2 * ADAM_STEP * RATE) * N**0.5 * 1.01


def test_when_most_are_far_they_are_followed_from_the_next_step_on() -> None:
    clipping = Clipping()
    others = dict.fromkeys("abc", OWN + 5.0)
    assert float(mixed(clipping, others).max()) < 0.1
    assert torch.allclose(mixed(clipping, others), torch.full((N,), 3.75))


def test_a_single_neighbour_is_taken_as_it_is() -> None:
    assert torch.allclose(mixed(Clipping(), {"a": OWN + 5.0}), torch.full((N,), 1.25))


@pytest.mark.parametrize("encoding", ["fp32", "bf16-delta"])
@pytest.mark.parametrize("value", [1e3, -1e30, 3e38])
def test_absurd_values_are_refused_on_arrival(encoding: str, value: float) -> None:
    taken = decoder(encoding, {Section.BLOCK: 4}, absurd_beyond({Section.BLOCK: 2.0}))
    assert taken.begin(0, full=True)
    with pytest.raises(PoisonError, match="no more than 32 makes sense"):
        taken.decode(Section.BLOCK, 0, torch.tensor([0.0, 1.0, 2.0, value]).numpy().tobytes())
