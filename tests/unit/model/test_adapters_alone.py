"""Runs that train adapters and no block: the plan, what a step changes, and the export for peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
from support.families import CAUSAL, CLASSIFIERS, save_tiny

from decad.config import RunSpec
from decad.core.batch import Batch
from decad.errors import ConfigError
from decad.model.division import NONE
from decad.model.export import export_adapters, export_model
from decad.model.memory import measure
from decad.model.trainable import TrainableModel

CPU = torch.device("cpu")
TOKENS = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(1))
BATCH = Batch(TOKENS, torch.tensor([0, 1]))


def loaded(directory: Path, family: str, blocks: str = NONE) -> TrainableModel:
    labels = ("bad", "good") if family in CLASSIFIERS else ()
    spec = RunSpec(labels=labels, adapters=2, blocks=blocks)
    return TrainableModel.load(directory, CPU, torch.float32, spec)


@pytest.mark.parametrize("family", [*CAUSAL, *CLASSIFIERS])
def test_nothing_but_adapters_and_a_head_has_a_gradient(family: str, tmp_path: Path) -> None:
    model = loaded(save_tiny(family, tmp_path / "base"), family)
    assert model.adapters is not None
    assert [block.numel for block in model.plan.blocks] == [0]
    model.activate(model.plan[0])
    batch = Batch.next_token(TOKENS) if family in CAUSAL else BATCH
    assert model.gradient(batch)[1].shape == (model.adapters.numel,)
    trained = {name for name, parameter in model.module.named_parameters() if parameter.requires_grad}
    assert trained == {slot.name for slot in model.adapters.slots}
    model.deactivate(seed=0, step=0)


@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore:The following (rank|alpha)_pattern"
)  # peft's own
@pytest.mark.parametrize("family", [*CAUSAL, *CLASSIFIERS])
def test_peft_reads_what_is_exported(family: str, tmp_path: Path) -> None:
    directory = save_tiny(family, tmp_path / "base")
    model = loaded(directory, family)
    model.adapter_values.add_(
        0.1 * torch.randn(model.adapter_values.shape, generator=torch.Generator().manual_seed(3))
    )
    blocks = {block.index: model.block(block.index) for block in model.blocks}
    export_adapters(directory, tmp_path / "out", blocks, model.spec)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors"]
    kind = AutoPeftModelForCausalLM if family in CAUSAL else AutoPeftModelForSequenceClassification
    more: dict[str, Any] = {} if family in CAUSAL else {"num_labels": 2}
    read = kind.from_pretrained(tmp_path / "out", local_files_only=True, dtype=torch.float32, **more).eval()
    with torch.no_grad():
        found, expected = read(TOKENS).logits, model.module(TOKENS).logits
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-3)


def test_what_cannot_be_exported_so(tmp_path: Path) -> None:
    directory = save_tiny("llama", tmp_path / "base")
    both = loaded(directory, "llama", "layers")
    values = {block.index: both.block(block.index) for block in both.blocks}
    with pytest.raises(ConfigError, match="adapters alone are not what came of it"):
        export_adapters(directory, tmp_path / "out", values, both.spec)
    with pytest.raises(ConfigError, match="no adapters"):
        export_adapters(directory, tmp_path / "out", values, both.spec.settled(adapters=0))
    with pytest.raises(ConfigError, match="No step was taken"):
        export_adapters(directory, tmp_path / "out", {}, both.spec.settled(blocks=NONE))
    assert not (tmp_path / "out").exists()


def test_the_whole_model_can_be_exported_too(tmp_path: Path) -> None:
    directory = save_tiny("llama", tmp_path / "base")
    model = loaded(directory, "llama")
    model.adapter_values.add_(0.1)
    export_model(directory, tmp_path / "out", {1: model.block(1)}, model.spec)
    tuned = TrainableModel.load(tmp_path / "out", CPU, torch.float32)
    batch = Batch.next_token(TOKENS)
    assert tuned.evaluate(batch).mean == pytest.approx(model.evaluate(batch).mean, abs=1e-4)


def test_without_adapters_there_is_nothing_to_train(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --adapters RANK"):
        TrainableModel.load(save_tiny("llama", tmp_path / "m"), CPU, torch.float32, RunSpec(blocks=NONE))


def test_the_memory_is_foretold(tmp_path: Path) -> None:
    directory = save_tiny("llama", tmp_path / "base")
    model = loaded(directory, "llama")
    assert model.adapters is not None
    plan, frozen, adapters, (need,) = measure(directory, model.spec, torch.float32, 2, 16)
    assert (plan, adapters) == (model.plan, model.adapters.numel)
    assert need.optimiser == 8 * adapters
    _, _, _, whole = measure(directory, loaded(directory, "llama", "layers").spec, torch.float32, 2, 16)
    assert need.total < min(other.total for other in whole)
    assert frozen > 0
