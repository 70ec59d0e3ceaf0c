from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny import make_tiny_llama

from decad.errors import OperatorError
from decad.lab.cost import METHODS, Setting, measure, measure_here, said


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("model"), layers=3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", METHODS)
def test_what_is_counted_is_what_the_formula_says(name: str, dtype: str, model: Path) -> None:
    setting = Setting(model, dtype, batch_size=1, seq_len=16, steps=1, threads=1, rank=2)
    cost = measure_here(setting, name)
    counted = cost.weights + cost.gradients + cost.optimiser + cost.exchange
    # BAdam's program divides the layers alone, its formula all parameters; rotary tables are buffers.
    slack = 0.5 if name == "badam" else 0.01
    assert counted == pytest.approx(said(setting)[name], rel=slack)
    assert cost.step_s > 0


def test_blocks_take_less_than_everything_and_adapters_least(model: Path) -> None:
    formula = said(Setting(model, rank=2))
    assert formula["lora"] < formula["decad"] < formula["adamw"]


def test_a_method_that_is_none_is_refused(model: Path) -> None:
    with pytest.raises(OperatorError, match=r"no method sgd\. There are adamw, lora, badam, decad"):
        list(measure(Setting(model), ["sgd"]))
