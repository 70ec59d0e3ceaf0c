from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.allocations import allocations, peak
from support.tiny import make_tiny_llama
from torch import Tensor
from transformers import AutoModelForCausalLM

from decad.core.batch import Batch
from decad.errors import InternalError
from decad.model.rounding import round_stochastically
from decad.model.trainable import TrainableModel

CPU = torch.device("cpu")


def load(directory: Path, dtype: torch.dtype = torch.float32) -> TrainableModel:
    return TrainableModel.load(directory, CPU, dtype)


def test_loss_and_gradient_of_every_block_equal_those_of_transformers(
    any_dir: Path, tokens: Tensor, batch: Batch
) -> None:
    reference = AutoModelForCausalLM.from_pretrained(any_dir)
    expected_loss = reference(input_ids=tokens, labels=tokens).loss
    expected_loss.backward()
    expected = {name: p.grad for name, p in reference.named_parameters()}
    model = load(any_dir)
    for block in model.plan.blocks:
        model.activate(block)
        loss, gradient = model.gradient(batch)
        model.deactivate(seed=0, step=0)
        assert loss == pytest.approx(expected_loss.item(), rel=1e-5)
        assert gradient.dtype == torch.float32
        for slot, part in zip(block.slots, block.views(gradient).values(), strict=True):
            whole = expected[slot.name]
            assert whole is not None
            rows = whole[slot.first_row :][: slot.shape[0]]
            torch.testing.assert_close(part, rows, rtol=1e-4, atol=1e-6)


def test_evaluation_is_the_mean_loss(any_dir: Path, tokens: Tensor, batch: Batch) -> None:
    expected = AutoModelForCausalLM.from_pretrained(any_dir)(input_ids=tokens, labels=tokens).loss
    assert load(any_dir).evaluate(batch).mean == pytest.approx(expected.item(), rel=1e-5)


def test_evaluation_in_bf16_has_more_than_three_digits(tied_dir: Path, batch: Batch) -> None:
    model = load(tied_dir, torch.bfloat16)
    loss = model.evaluate(batch).loss
    assert loss == pytest.approx(load(tied_dir).evaluate(batch).loss, rel=0.01)
    assert loss != torch.tensor(loss).bfloat16().item()


def test_in_fp32_the_master_is_the_weights(tied_dir: Path, batch: Batch) -> None:
    model = load(tied_dir)
    before = model.evaluate(batch)
    held = peak(allocations(lambda: model.activate(model.plan[1]).add_(0.05)), ())
    assert model.evaluate(batch) != before
    assert held.total < model.plan[1].numel


def test_in_bf16_the_weights_follow_the_master_at_sync(tied_dir: Path, batch: Batch) -> None:
    model = load(tied_dir, torch.bfloat16)
    before = model.evaluate(batch)
    model.activate(model.plan[1]).add_(0.05)
    assert model.evaluate(batch) == before
    model.sync()
    assert model.evaluate(batch) != before


def test_bf16_gradients_are_near_those_in_fp32(any_dir: Path, batch: Batch) -> None:
    half, full = load(any_dir, torch.bfloat16), load(any_dir)
    for block in full.plan.blocks:
        gradients = []
        for model in (half, full):
            model.activate(block)
            gradients.append(model.gradient(batch)[1])
            model.deactivate(seed=0, step=0)
        assert gradients[0].dtype == torch.float32
        assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.98


def test_bf16_write_back_rounds_stochastically(tied_dir: Path) -> None:
    model = load(tied_dir, torch.bfloat16)
    block = model.plan[1]
    master = model.activate(block)
    master.add_(1e-4)
    expected = torch.empty(block.numel, dtype=torch.bfloat16)
    round_stochastically(master, expected, seed=5, step=40, block=1)
    model.deactivate(seed=5, step=40)
    assert torch.equal(model.block(1), expected.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_active_block_reads_as_its_master(tied_dir: Path, dtype: torch.dtype) -> None:
    model = load(tied_dir, dtype)
    master = model.activate(model.plan[2])
    master.add_(1e-4)
    copy = model.block(2)
    assert torch.equal(copy, master)
    assert copy.data_ptr() != master.data_ptr()


def test_only_the_active_block_gets_gradients(tied_dir: Path, batch: Batch) -> None:
    model = load(tied_dir)
    untouched = [model.block(i) for i in (0, 2)]
    model.activate(model.plan[1])
    required = [name for name, p in model.module.named_parameters() if p.requires_grad]
    assert sorted(required) == sorted(slot.name for slot in model.plan[1].slots)
    model.gradient(batch)
    assert all(p.grad is None for p in model.module.parameters())
    model.deactivate(seed=0, step=0)
    assert not any(p.requires_grad for p in model.module.parameters())
    assert all(torch.equal(model.block(i), before) for i, before in zip((0, 2), untouched, strict=True))


def test_set_block_changes_the_forward_pass(tied_dir: Path, batch: Batch) -> None:
    model = load(tied_dir)
    before = model.evaluate(batch)
    values = model.block(1) + 0.05
    model.set_block(1, values)
    assert model.evaluate(batch) != before
    assert torch.equal(model.block(1), values)


def test_values_survive_deactivation_and_activation(tied_dir: Path) -> None:
    model = load(tied_dir)
    trained = model.activate(model.plan[1]).add_(0.01).clone()
    model.deactivate(seed=0, step=0)
    assert torch.equal(model.activate(model.plan[1]), trained)


def test_misuse_is_a_bug_of_ours(tied_dir: Path, batch: Batch) -> None:
    model = load(tied_dir)
    with pytest.raises(InternalError, match="no block is active"):
        model.gradient(batch)
    model.activate(model.plan[1])
    with pytest.raises(InternalError, match=r"layer\.0 is still active: layer\.1"):
        model.activate(model.plan[2])
    with pytest.raises(InternalError, match="write its master instead"):
        model.set_block(1, torch.zeros(model.plan[1].numel))


def test_the_hash_does_not_depend_on_the_load_dtype(tied_dir: Path) -> None:
    assert load(tied_dir).model_hash == load(tied_dir, torch.bfloat16).model_hash


def test_a_gradient_needs_one_transient_of_the_block_at_most(tmp_path: Path) -> None:
    """Gradient and one transient above the weights; a block of a hundredth of that are activations."""
    model = load(make_tiny_llama(tmp_path, hidden=256))
    batch = Batch.next_token(torch.randint(0, 256, (1, 8)))
    for block in model.plan.blocks:
        model.activate(block)
        model.gradient(batch)
        sizes = {4 * slot.numel for slot in block.slots} | {4 * block.numel}
        step = peak(allocations(lambda: model.gradient(batch)), sizes)
        model.deactivate(seed=0, step=0)
        assert step.named <= 2 * 4 * block.numel
        assert step.left == 4 * block.numel


def test_it_tells_its_sizes(tied_dir: Path) -> None:
    model = load(tied_dir)
    assert (model.vocab_size, model.context_length, len(model.plan)) == (258, 256, 3)


def test_updates_below_half_a_bf16_step_are_not_lost_from_phase_to_phase(tied_dir: Path) -> None:
    model = load(tied_dir, torch.bfloat16)
    model.set_block(1, torch.ones(model.plan[1].numel))
    update = 2**-8 / 10  # a tenth of the distance to the next value below 1
    for phase in range(50):
        model.activate(model.plan[1]).sub_(update)
        model.sync()
        model.deactivate(seed=0, step=phase)
    moved = 1 - model.block(1).mean().item()
    assert moved == pytest.approx(50 * update, rel=0.1)
