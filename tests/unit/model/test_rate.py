"""The learning rate where nobody gives one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.families import CAUSAL, CLASSIFIERS, save_tiny
from torch import nn

from decad.config import RunSpec
from decad.model.rate import ALONE, BESIDE_ADAPTERS, OF_ADAPTERS, STEADY, rates, suited_rate, width_of
from decad.model.trainable import TrainableModel

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", [*CAUSAL, *CLASSIFIERS])
def test_every_family_has_a_width(family: str, tmp_path: Path) -> None:
    directory = save_tiny(family, tmp_path / "model")
    labels = ("a", "b") if family in CLASSIFIERS else ()
    model = TrainableModel.load(directory, CPU, torch.float32, RunSpec(labels=labels))
    assert width_of(model.module) == 32
    assert model.spec.lr == pytest.approx(STEADY * ALONE / 32, rel=1e-2)
    assert model.spec.adapter_lr == 0
    assert "lr" not in model.spec.model_fields_set


def test_what_was_set_stays_and_the_rest_follows_the_width(tmp_path: Path) -> None:
    module = TrainableModel.load(save_tiny("llama", tmp_path / "m"), CPU, torch.float32).module
    assert rates(module, RunSpec(lr=1e-4)) == {"lr": 1e-4, "adapter_lr": 0.0}
    steady = rates(module, RunSpec(adapters=4))
    beside = rates(module, RunSpec(adapters=4, schedule="linear:100"))
    assert steady == pytest.approx({name: STEADY * rate for name, rate in beside.items()}, rel=1e-2)
    assert beside == pytest.approx({"lr": BESIDE_ADAPTERS / 32, "adapter_lr": OF_ADAPTERS / 32}, rel=1e-2)
    assert rates(module, RunSpec(adapters=4, lr=0.5, adapter_lr=0.25)) == {"lr": 0.5, "adapter_lr": 0.25}


def test_other_modules_have_the_median_of_their_matrices() -> None:
    module = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 2))
    assert width_of(module) == 16
    assert width_of(nn.LayerNorm(16)) == 0
    assert suited_rate(nn.LayerNorm(16), ALONE) == ALONE / 1000


def test_values_that_were_found_are_not_taken_for_set_ones() -> None:
    spec = RunSpec(lr=1e-3).settled(inner_steps=7)
    assert (spec.lr, spec.inner_steps, spec.model_fields_set) == (1e-3, 7, {"lr"})
    assert RunSpec.from_saved(spec.canonical()) == spec
