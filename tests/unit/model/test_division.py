from __future__ import annotations

from typing import Any

import pytest
import torch
from support.families import CAUSAL, CLASSIFIERS, tiny
from torch import nn

from decad.errors import ConfigError
from decad.model.division import divide


def slots(plan: Any) -> dict[str, list[str]]:
    return {block.name: [slot.name for slot in block.slots] for block in plan.blocks}


def numels(plan: Any) -> list[int]:
    return [block.numel for block in plan.blocks]


@pytest.mark.parametrize("blocks", ["layers", "sublayers", "2", "3"])
@pytest.mark.parametrize("family", [*CAUSAL, *CLASSIFIERS])
def test_every_trainable_parameter_is_in_one_block(family: str, blocks: str) -> None:
    module = tiny(family)
    plan = divide(module, blocks)
    assert plan.numel == sum(parameter.numel() for parameter in module.parameters())
    assert len({block.name for block in plan.blocks}) == len(plan)


@pytest.mark.parametrize("blocks", ["layers", "sublayers"])
@pytest.mark.parametrize("family", [*CAUSAL, *CLASSIFIERS])
def test_no_embedding_is_larger_than_twice_the_mean_block(family: str, blocks: str) -> None:
    plan = divide(tiny(family), blocks)
    mean = plan.numel / len(plan)
    assert all(b.numel <= 2 * mean for b in plan.blocks if b.name.startswith(("embedding", "head")))


def test_tied_weights_have_no_head_and_the_final_norm_joins_the_last_layer() -> None:
    plan = slots(divide(tiny("llama, tied")))
    assert list(plan) == ["embedding", "layer.0", "layer.1"]
    assert plan["layer.1"][-1] == "model.norm.weight"


def test_untied_weights_have_a_head_with_the_final_norm() -> None:
    plan = slots(divide(tiny("llama")))
    assert list(plan) == ["embedding", "layer.0", "layer.1", "head"]
    assert plan["head"] == ["model.norm.weight", "lm_head.weight"]


@pytest.mark.parametrize("family", [*CAUSAL, *CLASSIFIERS])
def test_the_input_side_holds_the_embeddings_and_nothing_of_the_output(family: str) -> None:
    plan = divide(tiny(family))
    first = {slot.name for block in plan.blocks if block.name.startswith("embedding") for slot in block.slots}
    assert any("embed" in name or "wte" in name for name in first)
    assert not any(
        mark in name for name in first for mark in ("lm_head", "classifier", "score", "norm.weight")
    )


def test_sublayers_keep_attention_and_the_rest_apart() -> None:
    plan = slots(divide(tiny("llama"), "sublayers"))
    assert all("mlp" not in name for name in plan["layer.1.attention"])
    assert all("self_attn" not in name for name in plan["layer.1.rest"])


class Deep(nn.Module):
    """Twelve layers, numbered beyond 9, and an embedding of nine times a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(90, 10)
        self.layers = nn.ModuleList(nn.Linear(10, 10, bias=False) for _ in range(12))


def test_layers_are_ordered_by_number() -> None:
    names = [name for name in slots(divide(Deep())) if name.startswith("layer")]
    assert names == [f"layer.{i}" for i in range(12)]


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_a_number_of_blocks_is_kept_and_they_are_even(count: int) -> None:
    plan = divide(Deep(), str(count))
    assert len(plan) == count
    assert max(numels(plan)) <= plan.numel / count + 200


def test_more_blocks_than_can_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="--blocks 90: this model can be divided evenly into 1 to"):
        divide(Deep(), "90")


@pytest.mark.parametrize("blocks", ["0", "half", "-1"])
def test_what_is_no_way_to_divide_is_refused(blocks: str) -> None:
    with pytest.raises(ConfigError, match="--blocks"):
        divide(Deep(), blocks)


def test_rows_of_a_divided_embedding_follow_each_other() -> None:
    plan = divide(Deep())
    pieces = [slot for block in plan.blocks for slot in block.slots if slot.name == "embed.weight"]
    assert len(pieces) > 1
    assert [p.first_row for p in pieces] == [sum(q.shape[0] for q in pieces[:i]) for i in range(len(pieces))]


def test_frozen_parameters_are_in_no_block() -> None:
    plan = divide(Deep(), freeze=("embed", "layers.0-9"))
    assert slots(plan) == {"layer.10": ["layers.10.weight"], "layer.11": ["layers.11.weight"]}


def test_what_may_not_be_frozen() -> None:
    with pytest.raises(ConfigError, match="nothing to train"):
        divide(Deep(), freeze=("*",))
    with pytest.raises(ConfigError, match=r"--freeze: 'layer\.1' matches no parameter"):
        divide(Deep(), freeze=("layer.1",))


def test_patterns_name_the_blocks() -> None:
    plan = divide(Deep(), "low=embed,layers.0-5;high=layers.6-9,layers.1?")
    assert [(block.name, block.numel) for block in plan.blocks] == [("low", 1500), ("high", 600)]


@pytest.mark.parametrize(
    ("blocks", "complaint"),
    [
        ("a=embed;b=layers.0-10", "1 parameters are in no block, layers.11.weight for one"),
        ("a=embed,layers;b=layers.3", "layers.3.weight is in two blocks, a and b"),
        ("a=embed,layers;b=head", "'head' matches no parameter"),
        ("a=embed;a=layers", "two blocks are called a"),
    ],
)
def test_patterns_must_cover_every_parameter_once(blocks: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        divide(Deep(), blocks)


@pytest.mark.parametrize(
    ("blocks", "complaint"),
    [
        ("a=;b=embed,layers", "'a=' is a block without patterns"),
        ("a= , ;b=embed,layers", "'a= ,' is a block without patterns"),
        ("x;b=embed,layers", "'x' is a block without patterns"),
        ("=embed,layers", "'=embed,layers' is a block without a name"),
        ("a=embed; =layers", "'=layers' is a block without a name"),
    ],
)
def test_every_block_has_a_name_and_patterns(blocks: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        divide(Deep(), blocks)


def test_spaces_and_a_last_semicolon_do_not_count() -> None:
    plan = divide(Deep(), " low = embed, layers.0-5; high=layers.6-9,layers.1? ;")
    assert plan.fingerprint == divide(Deep(), "low=embed,layers.0-5;high=layers.6-9,layers.1?").fingerprint


def test_a_model_without_a_list_of_layers_is_covered_too() -> None:
    module = nn.Sequential(*(nn.Linear(4, 4) for _ in range(40)))
    plan = divide(module)
    assert len(plan) == 32
    assert plan.numel == 40 * 20


def test_the_weights_need_not_be_there() -> None:
    with torch.device("meta"):
        plan = divide(Deep())
    assert plan.fingerprint == divide(Deep()).fingerprint
