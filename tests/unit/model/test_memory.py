from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.allocations import allocations, peak
from support.families import CAUSAL, CLASSIFIERS, save_tiny

from decad.config import RunSpec
from decad.core.adam import AdamState, local_step
from decad.core.batch import Batch
from decad.core.constants import AdamConstants
from decad.errors import ConfigError, ModelError
from decad.model.loading import what_to_train
from decad.model.memory import measure
from decad.model.room import check_room
from decad.model.trainable import TrainableModel

CPU = torch.device("cpu")


@pytest.mark.parametrize("micro_batch", [0, 16])
def test_a_step_is_foretold_as_it_is_measured(micro_batch: int, tmp_path: Path) -> None:
    """On a model of which the activations are most; a kernel's own memory is not foretold, and a mask is that the
    real kernel does without."""
    directory = save_tiny("llama", tmp_path / "model")
    spec = what_to_train(directory, RunSpec())
    _, _, _, needs = measure(directory, spec, torch.float32, 32, 25, micro_batch=micro_batch)
    model = TrainableModel.load(directory, CPU, torch.float32, micro_batch=micro_batch)
    batch = Batch.next_token(torch.randint(0, 256, (32, 25)))
    for index in (1, 2):
        block = model.plan[index]
        master, state = model.activate(block), AdamState.zeros(block.numel, CPU)

        def step() -> None:
            local_step(master, model.gradient(batch)[1], state, AdamConstants(), 1e-4)  # noqa: B023

        step()
        taken = peak(allocations(step), ()).total
        model.deactivate(seed=0, step=0)
        assert needs[index].step == pytest.approx(taken, rel=0.15)


@pytest.mark.parametrize("family", [*CAUSAL, *CLASSIFIERS])
def test_every_family_can_be_measured(family: str, tmp_path: Path) -> None:
    directory = save_tiny(family, tmp_path / "model")
    given = RunSpec(
        labels=("a", "b") if family in CLASSIFIERS else (), freeze=("**.bias",) * (family == "bert")
    )
    plan, frozen, _, needs = measure(directory, what_to_train(directory, given), torch.bfloat16, 2, 16)
    every = sum(
        t.numel() for t in TrainableModel.load(directory, CPU, torch.float32, given).module.parameters()
    )
    assert plan.numel + frozen == every
    assert {need.weights for need in needs} == {2 * every}
    assert [need.optimiser for need in needs] == [12 * block.numel for block in plan.blocks]
    assert all(need.step > 4 * block.numel for need, block in zip(needs, plan.blocks, strict=True))


def test_less_is_needed_with_checkpointing_and_higher_up(tmp_path: Path) -> None:
    directory = save_tiny("llama", tmp_path / "model")
    spec = what_to_train(directory, RunSpec())
    _, _, _, plain = measure(directory, spec, torch.float32, 16, 129)
    _, _, _, spared = measure(directory, spec, torch.float32, 16, 129, checkpointing=True)
    assert plain[2].step < plain[1].step
    assert spared[1].step < plain[1].step


@pytest.mark.parametrize("family", [*CAUSAL, *CLASSIFIERS])
def test_adapters_are_foretold(family: str, tmp_path: Path) -> None:
    directory = save_tiny(family, tmp_path / "model")
    labels = ("bad", "good") if family in CLASSIFIERS else ()
    spec = what_to_train(directory, RunSpec(labels=labels, adapters=2))
    plain = what_to_train(directory, RunSpec(labels=labels))
    plan, _, adapters, needs = measure(directory, spec, torch.float32, 2, 16)
    _, _, none, without = measure(directory, plain, torch.float32, 2, 16)
    model = TrainableModel.load(directory, CPU, torch.float32, spec)
    assert model.adapters is not None
    assert (plan, adapters, none) == (model.plan, model.adapters.numel, 0)
    factors = adapters - sum(slot.numel for slot in model.adapters.slots if "lora" not in slot.name)
    # A head that is trained beside the blocks may leave a block less.
    for block, need, alone in zip(plan.blocks, needs, without, strict=False):
        assert need.weights == alone.weights + 4 * factors
        assert need.optimiser == 8 * (block.numel + adapters)
        assert need.step >= alone.step + 4 * factors


def test_gradients_of_parts_are_added_up_in_a_buffer_of_their_own(tmp_path: Path) -> None:
    directory = save_tiny("llama", tmp_path / "model")
    spec = what_to_train(directory, RunSpec())
    plan, _, _, alone = measure(directory, spec, torch.float32, 1, 65)
    _, _, _, parts = measure(directory, spec, torch.float32, 2, 65, micro_batch=1)
    _, _, _, whole = measure(directory, spec, torch.float32, 2, 65, micro_batch=2)
    assert parts[1].step == alone[1].step + 4 * plan[1].numel
    assert whole == measure(directory, spec, torch.float32, 2, 65)[3]


def test_a_sequence_that_is_too_long_is_refused(tmp_path: Path) -> None:
    directory = save_tiny("roberta", tmp_path / "model")
    spec = what_to_train(directory, RunSpec(labels=("a", "b")))
    # Of its 512 positions those up to its padding token's, 257, are not used.
    measure(directory, spec, torch.float32, 1, 254)
    with pytest.raises(ConfigError, match="--seq-len 255 is longer than the 254 tokens"):
        measure(directory, spec, torch.float32, 1, 255)


def test_public_copies_are_counted_for_changes(tmp_path: Path) -> None:
    directory = save_tiny("llama", tmp_path / "model")
    spec = what_to_train(directory, RunSpec(encoding="bf16-delta"))
    plan, _, _, needs = measure(directory, spec, torch.float32, 1, 16, neighbours=3)
    assert needs[0].exchange == plan[0].numel * (4 + 2 + 3 * 4)


def test_a_model_with_room_is_let_in_and_one_without_refused_with_figures(tmp_path: Path) -> None:
    directory = save_tiny("llama", tmp_path / "model")
    weights = 4 * sum(
        t.numel() for t in TrainableModel.load(directory, CPU, torch.float32).module.parameters()
    )
    largest = max(block.numel for block in TrainableModel.load(directory, CPU, torch.float32).plan.blocks)
    check_room(directory, RunSpec(), torch.float32, "cpu", weights + 12 * largest)
    with pytest.raises(ModelError, match=r"needs at least .* for training block"):
        check_room(directory, RunSpec(), torch.float32, "cpu", weights + 12 * largest - 1)
