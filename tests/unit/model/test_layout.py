from __future__ import annotations

import pytest

from decad.errors import ModelError
from decad.model.layout import llama_plan

TIED = {
    "model.embed_tokens.weight": (10, 4),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.layers.0.input_layernorm.weight": (4,),
    "model.layers.1.self_attn.q_proj.weight": (4, 4),
    "model.norm.weight": (4,),
}


def names(shapes: dict[str, tuple[int, ...]]) -> dict[str, list[str]]:
    return {block.name: [slot.name for slot in block.slots] for block in llama_plan(shapes).blocks}


def test_tied_weights_have_no_head_block_and_the_final_norm_joins_the_last_layer() -> None:
    assert names(TIED) == {
        "embedding": ["model.embed_tokens.weight"],
        "layer.0": ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.input_layernorm.weight"],
        "layer.1": ["model.layers.1.self_attn.q_proj.weight", "model.norm.weight"],
    }


def test_untied_weights_have_a_head_block_with_the_final_norm() -> None:
    plan = names({**TIED, "lm_head.weight": (10, 4)})
    assert plan["head"] == ["model.norm.weight", "lm_head.weight"]
    assert plan["layer.1"] == ["model.layers.1.self_attn.q_proj.weight"]


def test_layers_are_ordered_by_number() -> None:
    shapes = {f"model.layers.{i}.weight": (2,) for i in (10, 9, 2)}
    plan = llama_plan({**TIED, **shapes})
    assert [block.name for block in plan.blocks][1:] == [
        "layer.0",
        "layer.1",
        "layer.2",
        "layer.9",
        "layer.10",
    ]


def test_a_parameter_of_another_architecture_is_refused() -> None:
    with pytest.raises(ModelError, match=r"no Llama-architecture model has: score\.weight"):
        llama_plan({**TIED, "score.weight": (2, 4)})


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="no decoder layers"):
        llama_plan({"model.embed_tokens.weight": (10, 4), "model.norm.weight": (4,)})
