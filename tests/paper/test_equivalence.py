"""Many steps against independent implementations: the algorithm's special cases are known optimisers."""

from __future__ import annotations

from collections.abc import Callable

import badam
import pytest
import torch
from support.peers import Peers, given, one_block
from torch import Tensor, nn

from decad.core.adam import AdamState, local_step
from decad.core.blocks import Block, BlockPlan
from decad.core.constants import AdamConstants
from decad.core.moments import default_b1, moment_rule
from decad.core.schedule import Schedule

STEPS = 60


def rate(step: int) -> float:
    """A rate that changes every step, so that a rate taken from the wrong step shows."""
    return 0.01 * (1 - step / (2 * STEPS))


def tiny_model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.LayerNorm(6), nn.Linear(6, 3)).to(
        dtype
    )


def loss_of(model: nn.Module, step: int) -> Tensor:
    data = torch.Generator().manual_seed(step)
    x, y = torch.randn(16, 5, generator=data), torch.randn(16, 3, generator=data)
    dtype = next(model.parameters()).dtype
    return nn.functional.mse_loss(model(x.to(dtype)), y.to(dtype))


def plan_of(model: nn.Module, group: Callable[[str], str]) -> BlockPlan:
    """A plan whose blocks are the parameters with equal ``group(name)``, in model order."""
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    groups: dict[str, list[str]] = {}
    for name in shapes:
        groups.setdefault(group(name), []).append(name)
    return BlockPlan.build(list(groups.items()), shapes)


def flat(model: nn.Module, block: Block) -> Tensor:
    """The block's parameters as one vector, moved so that the parameters are views of it."""
    parameters = dict(model.named_parameters())
    vector = torch.cat([parameters[slot.name].detach().flatten() for slot in block.slots])
    for name, view in block.views(vector).items():
        parameters[name].data = view
    return vector


def gradient(model: nn.Module, block: Block, step: int) -> Tensor:
    parameters = dict(model.named_parameters())
    grads = torch.autograd.grad(loss_of(model, step), [parameters[slot.name] for slot in block.slots])
    return torch.cat([g.flatten() for g in grads])


def assert_same_parameters(one: nn.Module, other: nn.Module, rtol: float) -> None:
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=rtol, atol=rtol), f"{name}: {float((a - b).detach().abs().max())}"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_one_peer_with_one_block_is_adamw(dtype: torch.dtype, tolerance: float, weight_decay: float) -> None:
    """T6: one peer, one block with all parameters, one phase: torch.optim.AdamW."""
    ours, theirs = tiny_model(dtype), tiny_model(dtype)
    block = plan_of(ours, lambda name: "all")[0]
    theta = flat(ours, block)
    state = AdamState(torch.zeros_like(theta), torch.zeros_like(theta), 0)
    constants = AdamConstants(weight_decay=weight_decay)
    adamw = torch.optim.AdamW(theirs.parameters(), weight_decay=weight_decay)
    for step in range(STEPS):
        local_step(theta, gradient(ours, block, step), state, constants, rate(step))
        adamw.zero_grad()
        loss_of(theirs, step).backward()  # type: ignore[no-untyped-call]  # torch has no types for it
        adamw.param_groups[0]["lr"] = rate(step)
        adamw.step()
    assert_same_parameters(ours, theirs, tolerance)


def test_one_peer_with_several_blocks_is_badam() -> None:
    """T6: one peer, three blocks, R steps each, descending: BAdam's own BlockOptimizer (badam 1.4).

    Moments and bias correction start anew with each phase there as here: `switch_trainable_params` makes new
    fp32 copies and drops all state, step counts included. Where the reference is unsound, and what we did:

    - Its first phase has R - 1 steps: `step` tests (global_step + 1) % R after counting. So our schedule
      starts at step 1.
    - `**self.defaults` comes last in its parameter groups and overwrites the 0.0 of the group without weight
      decay (and isinstance(param, LayerNorm) is never true of a parameter), so biases and norms decay like
      the rest. We decay the whole block too, and weight decay is on here to show it.
    - Every group takes the rate of the wrapper's param_groups[0]: groups with rates of their own lose them, and a
      scheduler made for the base optimiser breaks, its groups being replaced at each switch. So the test sets
      the rate on the BlockOptimizer.
    - Blocks are lists of substrings, not patterns or prefixes: "layers.1" takes layers.10 too, a name in no
      list is never trained, and nothing checks either. So the prefixes here end with a dot.
    - state_dict is the base optimiser's: block, order and step are not saved.
    """
    inner = 10
    ours, theirs = tiny_model(), tiny_model()
    prefixes = [["0."], ["2.", "3."], ["4."]]
    plan = plan_of(ours, lambda name: {"0": "a", "2": "b", "3": "b", "4": "c"}[name[0]])
    schedule = Schedule(len(plan), inner)
    constants = AdamConstants(weight_decay=0.1)
    adamw = torch.optim.AdamW(theirs.parameters(), lr=rate(0), weight_decay=0.1)
    with pytest.warns(UserWarning, match="expect model to be loaded in fp16/bf16"):
        reference = badam.BlockOptimizer(
            adamw,
            list(theirs.named_parameters()),
            prefixes,
            switch_block_every=inner,
            switch_mode="descending",
        )
    phase = -1
    for step in range(STEPS):
        position = schedule.position(step + 1)
        block = plan[position.block]
        if position.phase != phase:
            phase, theta, state = position.phase, flat(ours, block), AdamState.zeros(block.numel, "cpu")
        local_step(theta, gradient(ours, block, step), state, constants, rate(step))
        loss_of(theirs, step).backward()  # type: ignore[no-untyped-call]  # torch has no types for it
        reference.param_groups[0]["lr"] = rate(step)
        reference.step()
    assert_same_parameters(ours, theirs, 1e-5)


@pytest.mark.parametrize("name", ["rowwise", "gossip", "signal", "none"])
@pytest.mark.parametrize("encoding", ["fp32", "bf16-delta"])
def test_a_complete_graph_with_the_same_data_is_one_machine(name: str, encoding: str) -> None:
    """Three peers that see the same batches on the overlay `full`: one peer alone, to the rounding of 1/3."""
    model = tiny_model()
    block = plan_of(model, lambda name: "all")[0]
    theta = flat(model, block)
    constants = AdamConstants(b1=default_b1(name), weight_decay=0.1)
    state = AdamState.zeros(block.numel, "cpu")
    peers = Peers([theta] * 3, block, moment_rule(name), constants, encoding=encoding)
    for step in range(STEPS):
        grad = gradient(model, block, step)
        local_step(theta, grad, state, constants, rate(step))
        peers.step(given(grad, grad, grad), rate(step))
    for other in peers.thetas:
        assert torch.allclose(other, theta, atol=1e-4), float((other - theta).abs().max())


def test_peers_that_see_the_same_data_never_part() -> None:
    """Equal masters stay equal bit for bit on any regular overlay: the sums are made in peer-id order."""
    block = one_block((4, 4))
    peers = Peers([torch.ones(16)] * 4, block, moment_rule("rowwise"), AdamConstants(), overlay="ring")
    for step in range(STEPS):
        grad = torch.sin(torch.arange(16.0) * (step + 1))
        peers.step(given(*[grad] * 4), rate(step))
    assert all(torch.equal(theta, peers.thetas[0]) for theta in peers.thetas)
