"""Low-rank adapters beside the blocks: on which layers, with which values, and their gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.families import CAUSAL, CLASSIFIERS, save_tiny
from torch import Tensor

from decad.config import RunSpec
from decad.core.batch import Batch
from decad.errors import ConfigError
from decad.model.adapters import Adapting, add_adapters, head_names
from decad.model.export import export_model
from decad.model.trainable import TrainableModel

CPU = torch.device("cpu")
RANK = 2


def loaded(
    directory: Path,
    family: str = "",
    rank: int = 0,
    dtype: torch.dtype = torch.float32,
    freeze: tuple[str, ...] = (),
) -> TrainableModel:
    labels = ("bad", "good") if family in CLASSIFIERS else ()
    return TrainableModel.load(directory, CPU, dtype, RunSpec(labels=labels, adapters=rank, freeze=freeze))


def adapted(directory: Path, family: str = "", dtype: torch.dtype = torch.float32) -> TrainableModel:
    return loaded(directory, family, RANK, dtype)


def logits(model: TrainableModel, batch: Batch) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.module(batch.inputs).logits
    return found


def filled(model: TrainableModel) -> TrainableModel:
    """With adapters that do something."""
    model.adapter_values.copy_(
        0.2 * torch.randn(model.adapter_values.shape, generator=torch.Generator().manual_seed(3))
    )
    return model


@pytest.mark.parametrize("family", [*CAUSAL, *CLASSIFIERS])
def test_at_first_they_change_nothing_and_all_of_them_learn(family: str, tmp_path: Path) -> None:
    directory = save_tiny(family, tmp_path / "base")
    plain, model = loaded(directory, family), adapted(directory, family)
    tokens = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(1))
    batch = Batch.next_token(tokens) if family in CAUSAL else Batch(tokens, torch.tensor([0, 1]))
    head = set(head_names(plain.module)) if family in CLASSIFIERS else set()
    names = [
        {slot.name for block in plan.blocks for slot in block.slots} for plan in (model.plan, plain.plan)
    ]
    assert names[0] == names[1] - head
    assert model.evaluate(batch) == plain.evaluate(batch)
    block = model.plan[0]
    plain.activate(block)
    model.activate(block)
    alone, beside = plain.gradient(batch)[1], model.gradient(batch)[1]
    assert model.adapters is not None
    assert beside.shape == (block.numel + model.adapters.numel,)
    assert torch.equal(beside[: block.numel], alone)
    # U is zero, so only its own gradient is not: of D there is none yet. A head is trained as it is.
    views = model.adapters.views(beside[block.numel :])
    moved = {name for name, gradient in views.items() if gradient.any()}
    assert moved <= head | {name for name in views if "lora_B" in name}
    assert head <= moved
    assert len(moved) > len(views) // 4  # not of experts that no token was sent to
    model.deactivate(seed=0, step=0)
    block = model.plan[len(model.plan) - 1]
    model.activate(block)
    filled(model)
    _, gradient = model.gradient(batch)
    learning = [bool(view.any()) for view in model.adapters.views(gradient[block.numel :]).values()]
    assert all(learning) or family == "qwen2-moe"  # of its experts those that a token was sent to


def test_the_layer_is_what_the_formula_says(untied_dir: Path, batch: Batch) -> None:
    model = filled(adapted(untied_dir))
    assert model.adapters is not None
    views = model.adapters.views(model.adapter_values)
    plain = loaded(untied_dir)
    with torch.no_grad():
        for name, parameter in plain.module.named_parameters():
            stem = name.removesuffix(".weight")
            if (down := views.get(f"{stem}.lora_A.default.weight")) is not None:
                parameter.add_(views[f"{stem}.lora_B.default.weight"] @ down, alpha=2.0)
    assert torch.allclose(logits(model, batch), logits(plain, batch), atol=1e-4)
    assert not torch.allclose(logits(model, batch), logits(adapted(untied_dir), batch), atol=1e-2)


def test_the_base_model_gives_the_same_values_everywhere(untied_dir: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = adapted(untied_dir)
    torch.manual_seed(2)
    assert torch.equal(adapted(untied_dir).adapter_values, first.adapter_values)
    another = adapted(save_tiny("llama", tmp_path / "a")), adapted(save_tiny("llama", tmp_path / "b", seed=1))
    assert not torch.equal(another[0].adapter_values, another[1].adapter_values)


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_a_head_is_trained_in_full_and_in_fp32(family: str, tmp_path: Path) -> None:
    directory = save_tiny(family, tmp_path / "base")
    model = adapted(directory, family, torch.bfloat16)
    assert model.adapters is not None
    head = head_names(loaded(directory, family).module)
    assert head
    assert [slot.name for slot in model.adapters.slots][-len(head) :] == head
    batch = Batch(torch.arange(18).reshape(2, 9), torch.tensor([0, 1]))
    model.activate(model.plan[0])
    _, gradient = model.gradient(batch)
    views = model.adapters.views(gradient[model.plan[0].numel :])
    assert all(views[name].any() for name in head)
    before = logits(model, batch)
    model.adapters.views(model.adapter_values)[head[-1]].add_(1e-4)  # less than bf16 tells
    assert before.dtype == torch.float32
    assert not torch.equal(logits(model, batch), before)


def test_a_head_that_is_frozen_stays_as_it_is(tmp_path: Path) -> None:
    directory = save_tiny("bert", tmp_path / "base")
    for freeze, beside in ((("classifier",), []), (("classifier.bias",), ["classifier.weight"])):
        model = loaded(directory, "bert", RANK, torch.bfloat16, freeze)
        assert model.adapters is not None
        assert [s.name for s in model.adapters.slots if "classifier" in s.name] == beside
        assert not any("classifier" in slot.name for block in model.plan.blocks for slot in block.slots)
        logits(model, Batch(torch.arange(18).reshape(2, 9), torch.tensor([0, 1])))


def test_they_are_the_block_after_the_last(untied_dir: Path) -> None:
    model = adapted(untied_dir)
    assert [block.index for block in model.blocks] == list(range(len(model.plan) + 1))
    values = torch.arange(model.adapter_values.numel(), dtype=torch.float32)
    model.set_block(len(model.plan), values)
    assert torch.equal(model.block(len(model.plan)), values)
    assert torch.equal(model.adapter_values, values)


def test_in_bf16_they_are_fp32(untied_dir: Path, batch: Batch) -> None:
    model = filled(adapted(untied_dir, dtype=torch.bfloat16))
    model.activate(model.plan[0])
    _, gradient = model.gradient(batch)
    assert gradient.dtype == model.adapter_values.dtype == torch.float32
    assert gradient[model.plan[0].numel :].abs().max() > 0


def test_targets_that_are_not_there_are_refused(untied_dir: Path) -> None:
    with pytest.raises(ConfigError, match="nothing_like_it"):
        add_adapters(loaded(untied_dir).module, Adapting(RANK, RANK, 0, "nothing_like_it"), [])


@pytest.mark.parametrize("family", [*CAUSAL, *CLASSIFIERS])
def test_exported_they_are_part_of_the_weights(family: str, tmp_path: Path) -> None:
    directory = save_tiny(family, tmp_path / "base")
    model = filled(adapted(directory, family))
    blocks = {block.index: model.block(block.index) for block in model.blocks}
    blocks[0] += 0.01
    export_model(directory, tmp_path / "tuned", blocks, model.spec)
    tuned = loaded(tmp_path / "tuned", family)
    model.set_block(0, blocks[0])
    tokens = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(1))
    batch = Batch(tokens, torch.tensor([0, 1]))
    assert torch.allclose(logits(tuned, batch), logits(model, batch), atol=1e-4, rtol=1e-3)
    assert loaded(tmp_path / "tuned", family, RANK).plan == model.plan
