"""A peer inside a program: what it trains, tells, raises and leaves behind. It is alone here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from decad.api import (
    Batch,
    BlockAdam,
    Event,
    Finished,
    Listening,
    Peer,
    PeerConfig,
    PhaseBegun,
    RunSpec,
    StepTaken,
)
from decad.errors import ConfigError, DataError, StateError

SPEC = RunSpec(run="unit", lr=0.01, inner_steps=3)
LAYERS = 3

Pair = tuple[Tensor, Tensor]


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


def examples(count: int = 50) -> list[Pair]:
    source = torch.Generator().manual_seed(1)
    return [(torch.randn(4, generator=source), torch.randn(2, generator=source)) for _ in range(count)]


def loss(module: nn.Module, batch: Pair) -> Tensor:
    return mse_loss(module(batch[0]), batch[1])


def config(folder: Path, steps: int, **more: Any) -> PeerConfig:
    given = {"name": "unit", "batch_size": 8, "mdns": False, "device": "cpu", "threads": 1, **more}
    return PeerConfig(state_dir=folder, steps=steps, **given)


def peer(folder: Path, steps: int, module: nn.Module, **more: Any) -> Peer:
    given = {"loss": loss, "data": examples(), **more}
    return Peer(SPEC, config(folder, steps), module=module, **given)


def values(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


async def trained(folder: Path, steps: int) -> Tensor:
    """The parameters after a run, from the same beginning."""
    module = network()
    await peer(folder, steps, module).run()
    return values(module)


async def test_block_adam_does_what_a_peer_alone_does_bit_for_bit(tmp_path: Path) -> None:
    seen: list[Pair] = []

    def watched(module: nn.Module, batch: Pair) -> Tensor:
        seen.append(batch)
        return loss(module, batch)

    module, alone = network(), network()
    await peer(tmp_path, 14, module, loss=watched).run()
    optimizer = BlockAdam(alone, lr=SPEC.lr, inner_steps=SPEC.inner_steps)
    for batch in seen:
        optimizer.zero_grad()
        loss(alone, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert len(seen) == 14
    assert torch.equal(values(module), values(alone))


@pytest.mark.parametrize("first", [3, 7])
async def test_a_peer_that_is_started_again_goes_on_exactly(tmp_path: Path, first: int) -> None:
    straight = await trained(tmp_path / "straight", 12)
    await trained(tmp_path / "twice", first)
    assert torch.equal(await trained(tmp_path / "twice", 12), straight)


@pytest.mark.parametrize(("names", "alike"), [(("", ""), False), (("a", "b"), False), (("a", "a"), True)])
async def test_peers_with_the_same_data_draw_it_in_orders_of_their_own(
    tmp_path: Path, names: tuple[str, str], alike: bool
) -> None:
    """By their names, or else by their ids: what a cloned peer of one name draws is what its original does."""
    drawn: list[list[Tensor]] = []
    for place, name in enumerate(names):
        seen: list[Tensor] = []

        def watched(module: nn.Module, batch: Pair, seen: list[Tensor] = seen) -> Tensor:
            seen.append(batch[0])
            return loss(module, batch)

        again = config(tmp_path / str(place), 3, name=name)
        await Peer(SPEC, again, module=network(), loss=watched, data=examples()).run()
        drawn.append(seen)
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True)) is alike


async def test_micro_batches_are_parts_of_the_same_step(tmp_path: Path) -> None:
    whole, parts = network(), network()
    await peer(tmp_path / "whole", 4, whole).run()
    await Peer(
        SPEC, config(tmp_path / "parts", 4, micro_batch=3), module=parts, loss=loss, data=examples()
    ).run()
    assert torch.allclose(values(parts), values(whole), rtol=0, atol=1e-5)


async def test_the_events_of_a_run(tmp_path: Path) -> None:
    told: list[Event] = []
    async with peer(tmp_path, 4, network(), on_event=told.append) as running:
        events = [event async for event in running.events()]
    assert events == told
    listening, *rest = events
    assert isinstance(listening, Listening)
    assert [e if isinstance(e, PhaseBegun | Finished) else type(e) for e in rest] == [
        PhaseBegun(step=0, round=0, block=LAYERS - 1, name="4"),
        *[StepTaken] * 3,
        PhaseBegun(step=3, round=0, block=LAYERS - 2, name="2"),
        StepTaken,
        Finished(step=4, stopped=False),
    ]


async def test_two_peers_in_one_program_mix_with_each_other(tmp_path: Path) -> None:
    taken: dict[str, list[StepTaken]] = {"a": [], "b": []}

    def one(name: str, *known: str) -> Peer:
        def note(event: Event) -> None:
            if isinstance(event, StepTaken):
                taken[name].append(event)

        settings = config(tmp_path / name, 4, name=name, peers=known, min_peers=1)
        return Peer(SPEC, settings, module=network(), loss=loss, data=examples(), on_event=note)

    async with one("a") as a, one("b", await a.address()):
        pass
    for name, other in ("ab", "ba"):
        # Who is late on a busy machine is missing, and told as that.
        assert [step.mixed_with + step.missing for step in taken[name]] == [(other,)] * 4


async def test_an_evaluation_is_told_with_the_mean_over_the_held_out_examples(tmp_path: Path) -> None:
    module, held_out = network(), examples(20)
    with torch.no_grad():
        expected = loss(
            module, (torch.stack([x for x, _ in held_out]), torch.stack([y for _, y in held_out]))
        )
    told: list[Any] = []
    await peer(tmp_path, 1, module, held_out=held_out, on_event=told.append).run()
    first = next(event for event in told if type(event).__name__ == "Evaluated")
    assert first.loss == pytest.approx(expected.item(), rel=1e-5)
    assert (first.step, first.accuracy) == (0, None)


async def test_it_stops_when_it_is_told_to(tmp_path: Path) -> None:
    last: Event | None = None
    async with peer(tmp_path, 0, network()) as running:
        async for event in running.events():
            last = event
            if isinstance(event, StepTaken) and event.step == 4:
                running.stop()
    assert isinstance(last, Finished)
    assert last.stopped


async def test_it_stops_when_what_it_runs_beside_fails(tmp_path: Path) -> None:
    async def beside() -> None:
        async with peer(tmp_path, 0, network()) as running:
            await running.address()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await beside()


async def test_the_address_is_where_it_listens(tmp_path: Path) -> None:
    async with peer(tmp_path, 0, network()) as running:
        address = await running.address()
        assert address == running.status().listen == await running.address()
        running.stop()


async def test_an_error_of_the_loss_is_raised_as_it_is(tmp_path: Path) -> None:
    def broken(module: nn.Module, batch: Pair) -> Tensor:
        raise ZeroDivisionError("in the loss")

    with pytest.raises(ZeroDivisionError, match="in the loss"):
        await peer(tmp_path, 3, network(), loss=broken).run()


async def test_data_that_end_are_told_of(tmp_path: Path) -> None:
    def once() -> Iterator[Pair]:
        yield torch.zeros(2, 4), torch.zeros(2, 2)

    with pytest.raises(DataError, match="come to its end"):
        await peer(tmp_path, 3, network(), data=once()).run()


async def test_parameters_that_require_no_gradient_are_not_trained(tmp_path: Path) -> None:
    module = network()
    module[4].requires_grad_(False)
    before = values(module[4])
    await peer(tmp_path, 8, module).run()
    assert torch.equal(values(module[4]), before)
    assert [p.requires_grad for p in module.parameters()] == [True] * 4 + [False] * 2


async def test_a_module_that_begins_otherwise_is_refused(tmp_path: Path) -> None:
    module = network()
    await peer(tmp_path, 2, module).run()
    with pytest.raises(StateError, match="the module as it is now"):
        await peer(tmp_path, 4, module).run()


async def test_the_export_is_the_state_dict(tmp_path: Path) -> None:
    module = network()
    done = peer(tmp_path, 2, module)
    await done.run()
    done.export(tmp_path / "out.safetensors")
    exported = load_file(tmp_path / "out.safetensors")
    assert exported.keys() == module.state_dict().keys()
    assert all(torch.equal(exported[name], tensor) for name, tensor in module.state_dict().items())


async def test_token_batches_of_ones_own_train_a_hugging_face_model(tmp_path: Path, tiny: Path) -> None:
    tokens = torch.randint(0, 256, (6, 9), generator=torch.Generator().manual_seed(0))
    told: list[Event] = []
    running = Peer(
        SPEC,
        config(tmp_path, 3, model=tiny),
        data=[Batch.next_token(tokens)] * 2,
        collate=lambda drawn: drawn[0],
        on_event=told.append,
    )
    await running.run()
    losses = [event.loss for event in told if isinstance(event, StepTaken)]
    assert losses[2] < losses[0]


async def test_a_loss_of_ones_own_trains_a_hugging_face_model(tmp_path: Path, tiny: Path) -> None:
    tokens = torch.randint(0, 256, (6, 8), generator=torch.Generator().manual_seed(0))
    told: list[Event] = []

    def mean_logit(module: nn.Module, inputs: Tensor) -> Tensor:
        logits: Tensor = module(inputs).logits
        return logits.square().mean()

    running = Peer(
        SPEC, config(tmp_path, 6, model=tiny), loss=mean_logit, data=list(tokens), on_event=told.append
    )
    await running.run()
    losses = [event.loss for event in told if isinstance(event, StepTaken)]
    assert losses[5] < losses[0]


@pytest.mark.parametrize(
    ("given", "model", "data", "words"),
    [
        ({}, None, (), "trains one model"),
        ({"module": network()}, Path("m"), (Path("d"),), "trains one model"),
        ({}, Path("m"), (), "data of one kind"),
        ({"data": [1]}, Path("m"), (Path("d"),), "data of one kind"),
        ({"module": network(), "data": [1]}, None, (), "needs a loss and data"),
        ({"module": network(), "loss": loss}, None, (Path("d"),), "needs a loss and data"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, given: dict[str, Any], model: Path | None, data: tuple[Path, ...], words: str
) -> None:
    settings = PeerConfig(state_dir=tmp_path, model=model).model_copy(update={"data": data})
    with pytest.raises(ConfigError, match=words):
        Peer(SPEC, settings, **given)


def test_decad_does_not_checkpoint_a_module_of_ones_own(tmp_path: Path) -> None:
    settings = config(tmp_path, 1, gradient_checkpointing=True)
    with pytest.raises(ConfigError, match="gradient_checkpointing is for a model that decad loads"):
        Peer(SPEC, settings, module=network(), loss=loss, data=examples())


async def test_a_module_in_half_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="float32 or in bfloat16"):
        await peer(tmp_path, 1, network().half()).run()


def test_the_model_is_not_there_before_it_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not loaded yet"):
        _ = peer(tmp_path, 1, network()).module
