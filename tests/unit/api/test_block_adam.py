"""BlockAdam on one machine, against torch's own Adam and through its states."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from decad.api import BlockAdam

R = 3


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Three blocks: its linear layers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).to(
            dtype
        )


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    source = torch.Generator().manual_seed(1)
    return [
        (torch.randn(16, 4, generator=source), torch.randn(16, 2, generator=source)) for _ in range(count)
    ]


def train(module: nn.Module, optimizer: torch.optim.Optimizer, data: list[tuple[Tensor, Tensor]]) -> None:
    dtype = next(module.parameters()).dtype
    for inputs, targets in data:
        optimizer.zero_grad()
        mse_loss(module(inputs.to(dtype)), targets.to(dtype)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def values(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_it_is_adam_on_one_block_after_another_with_fresh_moments() -> None:
    """Within 1e-6, as torch adds up in another order: two rounds of three blocks from the last to the first."""
    mine, reference, data = network(), network(), batches(6 * R)
    train(mine, BlockAdam(mine, lr=0.01, inner_steps=R, warmup=0), data)
    for phase in range(6):
        layer = reference[(4, 2, 0)[phase % 3]]
        assert isinstance(layer, nn.Linear)
        train(reference, torch.optim.Adam(layer.parameters(), lr=0.01), data[phase * R : (phase + 1) * R])
        reference.zero_grad()
    assert torch.allclose(values(mine), values(reference), rtol=0, atol=1e-6)


def test_only_the_active_block_has_gradients() -> None:
    module = network()
    optimizer = BlockAdam(module, inner_steps=1)
    seen = []
    for batch in batches(3):
        seen.append({name for name, p in module.named_parameters() if p.requires_grad})
        assert seen[-1] == {slot.name for slot in optimizer.active.slots}
        train(module, optimizer, [batch])
    assert seen == [{f"{layer}.weight", f"{layer}.bias"} for layer in (4, 2, 0)]


def test_frozen_parameters_stay_as_they_are() -> None:
    module = network()
    before = module.get_parameter("2.weight").clone()
    train(module, BlockAdam(module, lr=0.01, inner_steps=1, freeze=["2.weight"]), batches(6))
    assert torch.equal(module.get_parameter("2.weight"), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("steps", [R - 1, R, 4 * R + 1])
def test_a_state_goes_on_bit_for_bit(steps: int, dtype: torch.dtype) -> None:
    data = batches(6 * R)
    straight = network(dtype)
    train(straight, BlockAdam(straight, lr=0.01, inner_steps=R), data)
    first = network(dtype)
    optimizer = BlockAdam(first, lr=0.01, inner_steps=R)
    train(first, optimizer, data[:steps])
    saved: dict[str, Any] = copy.deepcopy({"module": first.state_dict(), "optimizer": optimizer.state_dict()})
    second = network(dtype)
    again = BlockAdam(second, lr=0.5, inner_steps=R)
    second.load_state_dict(saved["module"])
    again.load_state_dict(saved["optimizer"])
    train(second, again, data[steps:])
    assert torch.equal(values(second), values(straight))


def test_a_state_of_another_schedule_is_refused() -> None:
    state = BlockAdam(network(), inner_steps=2).state_dict()
    with pytest.raises(ValueError, match="another inner_steps"):
        BlockAdam(network(), inner_steps=3).load_state_dict(state)


def test_in_each_phase_the_rate_rises_to_what_was_asked_for() -> None:
    module = nn.Linear(1, 1, bias=False)
    optimizer = BlockAdam(module, lr=0.1, inner_steps=4, warmup=0.5)
    moved = []
    for _ in range(8):
        before = module.weight.item()
        module.weight.grad = torch.ones_like(module.weight)
        optimizer.step()
        moved.append(before - module.weight.item())
    assert moved == pytest.approx([0.05, 0.1, 0.1, 0.1] * 2, rel=1e-4)


def test_in_bf16_steps_smaller_than_its_precision_add_up() -> None:
    """100 steps of 1e-4 down from 1.0, where bf16's next value is 0.0039 below: the master copy remembers them."""
    module = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        module.weight.fill_(1.0)
    optimizer = BlockAdam(module, lr=1e-4, inner_steps=1000, warmup=0)
    for _ in range(100):
        module.weight.grad = torch.ones_like(module.weight)
        optimizer.step()
    assert module.weight.item() == pytest.approx(0.99, abs=0.004)


def test_learning_rate_schedulers_work() -> None:
    module = network()
    optimizer = BlockAdam(module, lr=0.01, inner_steps=R)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    train(module, optimizer, batches(1))
    scheduler.step()
    before = values(module).clone()
    train(module, optimizer, batches(2))
    assert torch.equal(values(module), before)


def test_a_parameter_without_a_gradient_counts_as_zero() -> None:
    module = network()
    before = values(module).clone()
    BlockAdam(module, lr=0.01).step()
    assert torch.equal(values(module), before)


def test_half_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="float32 or in bfloat16"):
        BlockAdam(network(torch.float16))


def test_values_out_of_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="inner_steps"):
        BlockAdam(network(), inner_steps=0)
