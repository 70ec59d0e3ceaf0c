from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from decad.errors import ModelError
from decad.model.output import write_weights
from decad.model.weights import BaseWeights


@pytest.fixture
def state(tied_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(tied_dir / "model.safetensors")


def hash_of(directory: Path, tensors: dict[str, torch.Tensor]) -> str:
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    return BaseWeights(directory).sha256()


def test_hash_ignores_the_split_into_files(
    tmp_path: Path, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decad.model.output.SHARD_BYTES", 20_000)
    (tmp_path / "sharded").mkdir()
    write_weights(tmp_path / "sharded", state.items())
    assert len(list((tmp_path / "sharded").glob("model-0000*-of-*.safetensors"))) > 2
    assert BaseWeights(tmp_path / "sharded").sha256() == hash_of(tmp_path / "single", state)


def test_hash_sees_one_changed_value(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    before = hash_of(tmp_path / "before", state)
    state["model.norm.weight"][3] += 1e-6
    assert hash_of(tmp_path / "after", state) != before


def test_hash_sees_names(tmp_path: Path) -> None:
    a, b = torch.zeros(3), torch.ones(3)
    assert hash_of(tmp_path / "a", {"x": a, "y": b}) != hash_of(tmp_path / "b", {"x": b, "y": a})


def test_hash_sees_shapes(tmp_path: Path) -> None:
    values = torch.arange(6.0)
    assert hash_of(tmp_path / "a", {"x": values.view(2, 3)}) != hash_of(
        tmp_path / "b", {"x": values.view(3, 2)}
    )


def test_hash_sees_dtypes(tmp_path: Path) -> None:
    zeros = torch.zeros(4, dtype=torch.int16)
    as_half = zeros.view(torch.float16)
    assert hash_of(tmp_path / "a", {"x": zeros}) != hash_of(tmp_path / "b", {"x": as_half})


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no safetensors weights"):
        BaseWeights(tmp_path)


def test_cut_off_file(tmp_path: Path, tied_dir: Path) -> None:
    whole = (tied_dir / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        BaseWeights(tmp_path)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    index = {"weight_map": {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"x": torch.zeros(1)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00002\.safetensors, which"):
        BaseWeights(tmp_path)


def test_malformed_index(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelError, match="not a readable weight index"):
        BaseWeights(tmp_path)


def test_tensors_stay_readable_after_the_file_is_gone(tmp_path: Path, tied_dir: Path) -> None:
    """A run goes on when somebody tidies up the model directory."""
    shutil.copy(tied_dir / "model.safetensors", tmp_path)
    weights = BaseWeights(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert weights.tensor("model.norm.weight").tolist() == [1.0] * 32
