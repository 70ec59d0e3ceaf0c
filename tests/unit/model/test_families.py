"""Each family of models that decad is known to train: loaded, divided, trained a little, exported and loaded again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import CAUSAL, CLASSIFIERS, save_tiny
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from decad.config import RunSpec
from decad.core.adam import AdamState, local_step
from decad.core.batch import Batch
from decad.core.blocks import Block
from decad.core.constants import AdamConstants
from decad.errors import ConfigError, ModelError
from decad.model.export import export_model
from decad.model.trainable import TrainableModel

CPU = torch.device("cpu")
LABELS = ("bad", "fair", "good")


def spec(family: str, **settings: Any) -> RunSpec:
    return RunSpec(labels=LABELS if family in CLASSIFIERS else (), **settings)


def batch_for(family: str) -> Batch:
    tokens = torch.randint(0, 256, (4, 13), generator=torch.Generator().manual_seed(1))
    if family in CAUSAL:
        return Batch.next_token(tokens)
    return Batch(tokens, torch.tensor([0, 1, 2, 1]))


def load(family: str, folder: Path, dtype: torch.dtype = torch.float32, **more: Any) -> TrainableModel:
    directory = folder / "base"
    if not directory.exists():
        save_tiny(family, directory, labels=len(LABELS))
    settings = {key: more.pop(key) for key in ("blocks", "freeze") if key in more}
    return TrainableModel.load(directory, CPU, dtype, spec(family, **settings), **more)


def train(model: TrainableModel, batch: Batch, block: Block, steps: int = 3) -> None:
    master, state = model.activate(block), AdamState.zeros(block.numel, CPU)
    for _ in range(steps):
        local_step(master, model.gradient(batch)[1], state, AdamConstants(), 3e-3)
        model.sync()
    model.deactivate(seed=0, step=0)


def gradients(model: TrainableModel, batch: Batch) -> list[torch.Tensor]:
    found = []
    for block in model.plan.blocks:
        model.activate(block)
        found.append(model.gradient(batch)[1])
        model.deactivate(seed=0, step=0)
    return found


def saved(work: Callable[[], object]) -> int:
    """Elements that autograd keeps for the way back."""
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(kept)


@pytest.mark.parametrize("family", [*CAUSAL, *CLASSIFIERS])
def test_loads_trains_and_exports(family: str, tmp_path: Path) -> None:
    model, batch = load(family, tmp_path), batch_for(family)
    base = [model.block(block.index) for block in model.plan.blocks]
    parameters = dict(model.module.named_parameters())
    assert sum(block.numel for block in model.plan.blocks) == sum(p.numel() for p in parameters.values())

    before = model.evaluate(batch).mean
    for block in reversed(model.plan.blocks):
        train(model, batch, block)
    after = model.evaluate(batch).mean
    assert after < before - 0.01
    # Of an embedding's rows some are of tokens and places that the batch does not have.
    layers = [block.index for block in model.plan.blocks if not block.name.startswith("embedding")]
    assert all(not torch.equal(model.block(i), base[i]) for i in layers)

    trained = {block.index: model.block(block.index) for block in model.plan.blocks}
    export_model(tmp_path / "base", tmp_path / "out", trained, model.spec)
    auto: Any = AutoModelForCausalLM if family in CAUSAL else AutoModelForSequenceClassification
    exported = auto.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        ours = model.module(input_ids=batch.inputs).logits
        torch.testing.assert_close(exported(input_ids=batch.inputs).logits, ours, rtol=1e-4, atol=1e-5)
    if family in CLASSIFIERS:
        assert exported.config.id2label == dict(enumerate(LABELS))


@pytest.mark.parametrize("family", [*CAUSAL, *CLASSIFIERS])
def test_trains_in_bf16(family: str, tmp_path: Path) -> None:
    model, batch = load(family, tmp_path, torch.bfloat16), batch_for(family)
    assert {flat.dtype for flat in model._flat} == {torch.bfloat16}
    before = model.evaluate(batch).mean
    for block in reversed(model.plan.blocks):
        train(model, batch, block)
    assert model.evaluate(batch).mean < before


@pytest.mark.parametrize("family", [*CAUSAL, *CLASSIFIERS])
def test_micro_batches_and_checkpointing_change_no_gradient(family: str, tmp_path: Path) -> None:
    batch = batch_for(family)
    expected = gradients(load(family, tmp_path), batch)
    for options in ({"micro_batch": 1}, {"micro_batch": 3}, {"checkpointing": True}):
        for got, want in zip(gradients(load(family, tmp_path, **options), batch), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)


def test_checkpointing_keeps_less_for_the_way_back(tmp_path: Path) -> None:
    batch, kept = batch_for("llama"), []
    for checkpointing in (False, True):
        model = load("llama", tmp_path, checkpointing=checkpointing)
        model.activate(model.plan[0])
        kept.append(saved(partial(model.objective.loss, batch)))
    assert kept[1] < kept[0] / 2


@pytest.mark.parametrize(
    ("family", "pattern"),
    [("llama, tied", "**.embed_tokens"), ("bert", "bert.embeddings"), ("mixtral", "model.embed_*")],
)
def test_what_is_frozen_stays(family: str, pattern: str, tmp_path: Path) -> None:
    model, batch = load(family, tmp_path, freeze=(pattern,)), batch_for(family)
    name = next(n for n, p in model.module.named_parameters() if "embed" in n and p.dim() == 2)
    before = model.module.get_parameter(name).clone()
    assert all(slot.name != name for block in model.plan.blocks for slot in block.slots)
    for block in model.plan.blocks:
        train(model, batch, block)
    assert torch.equal(model.module.get_parameter(name), before)


def test_rows_of_an_embedding_train_apart(tmp_path: Path) -> None:
    model, batch = load("llama", tmp_path, blocks="8"), batch_for("llama")
    pieces = [block for block in model.plan.blocks if block.slots[0].name == "model.embed_tokens.weight"]
    assert len(pieces) > 1
    before = model.module.get_parameter("model.embed_tokens.weight").clone()
    train(model, batch, pieces[1])
    after = model.module.get_parameter("model.embed_tokens.weight")
    slot = pieces[1].slots[0]
    changed = (after != before).any(dim=1).nonzero().flatten()
    assert len(changed)
    assert slot.first_row <= changed.min()
    assert changed.max() < slot.first_row + slot.shape[0]


class TestHead:
    """A classifier on a body that was trained for something else."""

    @pytest.fixture
    def body(self, tmp_path: Path) -> Path:
        directory = save_tiny("bert", tmp_path / "body", labels=2)
        module: Any = AutoModelForSequenceClassification.from_pretrained(directory)
        module.bert.save_pretrained(directory)
        return directory

    def classifier(self, body: Path, dtype: torch.dtype = torch.float32) -> TrainableModel:
        return TrainableModel.load(body, CPU, dtype, RunSpec(task="classification", labels=LABELS))

    def test_it_is_the_same_at_all_peers(self, body: Path) -> None:
        torch.manual_seed(1)
        one = self.classifier(body)
        torch.manual_seed(2)
        other = self.classifier(body)
        assert all(torch.equal(one.block(i), other.block(i)) for i in range(len(one.plan)))

    def test_it_is_neither_zero_nor_large(self, body: Path) -> None:
        head = self.classifier(body).module.classifier
        assert 0.05 < head.weight.std() < 0.2
        assert head.bias.abs().max() == 0

    def test_what_to_train_for_must_be_said(self, body: Path) -> None:
        with pytest.raises(
            ModelError, match=r"BertModel.*--task causal-lm, or --task classification with --labels"
        ):
            TrainableModel.load(body, CPU, torch.float32)

    def test_the_classes_must_be_said(self, body: Path) -> None:
        with pytest.raises(ConfigError, match=r"does not say what its classes are.*--labels A,B,C"):
            TrainableModel.load(body, CPU, torch.float32, RunSpec(task="classification"))

    def test_classes_are_those_that_the_model_names(self, tmp_path: Path) -> None:
        first = save_tiny("bert", tmp_path / "plain", labels=3)
        model = TrainableModel.load(first, CPU, torch.float32, RunSpec(labels=LABELS))
        export_model(first, tmp_path / "named", {}, model.spec)
        again = TrainableModel.load(tmp_path / "named", CPU, torch.float32)
        assert (again.spec.task, again.spec.labels) == ("classification", LABELS)
        with pytest.raises(ConfigError, match=rf"has the classes {','.join(LABELS)}, in this order"):
            TrainableModel.load(tmp_path / "named", CPU, torch.float32, RunSpec(labels=LABELS[::-1]))


@pytest.mark.parametrize("labels", [("a",), ("a", "b", "a")])
def test_classes_that_cannot_be_told_apart_are_refused(labels: tuple[str, ...], tmp_path: Path) -> None:
    directory = save_tiny("bert", tmp_path / "model")
    with pytest.raises(ConfigError, match=r"A classifier tells two or more classes apart.*Name each once"):
        TrainableModel.load(directory, CPU, torch.float32, RunSpec(labels=labels))


def test_labels_are_for_classifiers(tmp_path: Path) -> None:
    directory = save_tiny("llama", tmp_path / "model")
    with pytest.raises(ConfigError, match="--labels is for --task classification"):
        TrainableModel.load(directory, CPU, torch.float32, RunSpec(labels=LABELS))
