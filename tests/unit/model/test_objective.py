from __future__ import annotations

import pytest
import torch
from support.families import CAUSAL, CLASSIFIERS, tiny
from torch import Tensor
from torch.nn.functional import cross_entropy

from decad.core.batch import IGNORED, Batch
from decad.model.objective import CHUNK, Classes, NextToken

PADDING = 257


@pytest.fixture
def batch() -> Batch:
    """3 x 100 predictions, of which some do not count, so that more than one chunk is used."""
    sequences = torch.randint(0, 256, (3, 101), generator=torch.Generator().manual_seed(2))
    batch = Batch.next_token(sequences)
    targets = batch.targets.clone()
    targets[0, :30] = IGNORED
    targets[2, 80:] = IGNORED
    assert targets.numel() > CHUNK
    return Batch(batch.inputs, targets)


def plain(module: torch.nn.Module, batch: Batch) -> Tensor:
    logits = module(input_ids=batch.inputs).logits
    return cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED)


@pytest.mark.parametrize("family", CAUSAL)
def test_loss_and_gradients_equal_those_of_plain_cross_entropy(family: str, batch: Batch) -> None:
    module = tiny(family)
    parameters = list(module.parameters())
    expected = plain(module, batch)
    gradients = torch.autograd.grad(expected, parameters, materialize_grads=True)
    loss = NextToken(module).loss(batch)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for got, want in zip(
        torch.autograd.grad(loss, parameters, materialize_grads=True), gradients, strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("family", CAUSAL)
def test_the_score_adds_up_what_counts(family: str, batch: Batch) -> None:
    module = tiny(family)
    score = NextToken(module).score(batch)
    assert score.predictions == 3 * 100 - 30 - 20
    assert score.mean == pytest.approx(plain(module, batch).item(), rel=1e-4)


@pytest.mark.parametrize("family", [name for name in CAUSAL if name not in ("gemma2",)])
def test_the_loss_never_holds_all_logits(family: str, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """gemma2 caps its logits: it holds those of a chunk, which the test below sees."""
    objective = NextToken(tiny(family))
    monkeypatch.setattr(objective, "_logits", None)
    objective.loss(batch)


def test_capped_logits_are_made_chunk_by_chunk(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = NextToken(tiny("gemma2"))
    held = []
    capped = objective._capped

    def spy(hidden: Tensor) -> Tensor:
        held.append(hidden.shape[0])
        return capped(hidden)

    monkeypatch.setattr(objective, "_capped", spy)
    objective.loss(batch).backward()  # type: ignore[no-untyped-call]
    assert max(held) == CHUNK
    assert sum(held) == 2 * batch.targets.numel()


def test_an_architecture_with_logits_of_its_own_is_followed(batch: Batch) -> None:
    module = tiny("llama")
    head = module.get_output_embeddings()
    forward = module.forward

    def scaled(**inputs: object) -> object:
        out = forward(**inputs)
        out.logits = out.logits * 3
        return out

    module.forward = scaled  # as Granite and Cohere do
    assert head is not None
    torch.testing.assert_close(NextToken(module).loss(batch), plain(module, batch))


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_classes_are_scored_as_by_the_model_itself(family: str) -> None:
    module = tiny(family, labels=3)
    inputs = torch.randint(0, 256, (4, 20), generator=torch.Generator().manual_seed(3))
    classes = torch.tensor([0, 1, 2, 1])
    objective = Classes(module, PADDING)
    expected = module(input_ids=inputs, labels=classes)
    torch.testing.assert_close(objective.loss(Batch(inputs, classes)), expected.loss)
    score = objective.score(Batch(inputs, classes))
    assert score.mean == pytest.approx(expected.loss.item(), rel=1e-5)
    assert score.accuracy == (expected.logits.argmax(1) == classes).float().mean().item()


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_filling_up_changes_nothing(family: str) -> None:
    module = tiny(family, labels=3)
    inputs = torch.randint(0, 256, (1, 12), generator=torch.Generator().manual_seed(3))
    classes = torch.tensor([2])
    objective = Classes(module, PADDING)
    filled = torch.cat([inputs, torch.full((1, 5), PADDING)], dim=1)
    mask = torch.tensor([[True] * 12 + [False] * 5])
    torch.testing.assert_close(
        objective.loss(Batch(filled, classes, mask)),
        objective.loss(Batch(inputs, classes)),
        rtol=1e-4,
        atol=1e-5,
    )
