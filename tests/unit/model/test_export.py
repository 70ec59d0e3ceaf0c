from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from decad.core.batch import Batch
from decad.errors import InternalError, OperatorError
from decad.model.export import export_model
from decad.model.trainable import TrainableModel

CPU = torch.device("cpu")


@pytest.fixture
def model(any_dir: Path) -> TrainableModel:
    return TrainableModel.load(any_dir, CPU, torch.float32)


def trained(model: TrainableModel) -> dict[int, Tensor]:
    return {block.index: model.block(block.index) + 0.01 for block in model.plan.blocks}


def test_transformers_loads_what_was_trained(
    any_dir: Path, model: TrainableModel, tmp_path: Path, tokens: Tensor, batch: Batch
) -> None:
    blocks = trained(model)
    export_model(any_dir, tmp_path / "out", blocks, model.spec)
    for index, values in blocks.items():
        model.set_block(index, values)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert exported.dtype == torch.float32
    loss = exported(input_ids=tokens, labels=tokens).loss.item()
    assert loss == pytest.approx(model.evaluate(batch).mean, rel=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("abc") == model.tokenizer("abc")


def test_blocks_that_are_not_given_stay_the_bases(
    any_dir: Path, model: TrainableModel, tmp_path: Path
) -> None:
    export_model(any_dir, tmp_path / "out", {1: model.block(1) + 1}, model.spec)
    exported = TrainableModel.load(tmp_path / "out", CPU, torch.float32)
    assert torch.equal(exported.block(0), model.block(0))
    assert torch.equal(exported.block(1), model.block(1) + 1)


def test_an_export_of_nothing_new_is_the_base(any_dir: Path, model: TrainableModel, tmp_path: Path) -> None:
    export_model(any_dir, tmp_path / "out", {}, model.spec)
    assert TrainableModel.load(tmp_path / "out", CPU, torch.float32).model_hash == model.model_hash


def test_a_bf16_base_gives_bf16_or_fp32_by_choice(tied_dir: Path, tmp_path: Path) -> None:
    model = TrainableModel.load(tied_dir, CPU, torch.float32)
    base = tmp_path / "base"
    export_model(tied_dir, base, {}, model.spec, torch.bfloat16)
    for name, dtype in (("same", None), ("full", torch.float32)):
        export_model(base, tmp_path / name, trained(model), model.spec, dtype)
    same, full = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype="auto") for name in ("same", "full")
    )
    assert (same.dtype, full.dtype) == (torch.bfloat16, torch.float32)
    values = trained(model)[0].view(258, 32)
    assert torch.equal(full.model.embed_tokens.weight, values)
    assert torch.equal(same.model.embed_tokens.weight, values.bfloat16())


def test_a_tied_head_that_the_base_stored_twice_is_dropped(tied_dir: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tied_dir, tmp_path / "base"))
    state = load_file(base / "model.safetensors")
    save_file(
        {**state, "lm_head.weight": state["model.embed_tokens.weight"].clone()},
        base / "model.safetensors",
        metadata={"format": "pt"},
    )
    model = TrainableModel.load(base, CPU, torch.float32)
    export_model(base, tmp_path / "out", trained(model), model.spec)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(exported.lm_head.weight.flatten(), trained(model)[0])


def test_shards_load_like_one_file(
    any_dir: Path, model: TrainableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decad.model.export.SHARD_BYTES", 30_000)
    export_model(any_dir, tmp_path / "out", trained(model), model.spec)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * model.plan.numel
    exported = TrainableModel.load(tmp_path / "out", CPU, torch.float32)
    assert all(torch.equal(exported.block(i), values) for i, values in trained(model).items())


def test_files_are_as_readable_as_their_directory(
    any_dir: Path, model: TrainableModel, tmp_path: Path
) -> None:
    export_model(any_dir, tmp_path / "out", {}, model.spec)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert modes == {(tmp_path / "out").stat().st_mode & 0o666}


def test_an_empty_directory_may_be_given(tied_dir: Path, tmp_path: Path) -> None:
    spec = TrainableModel.load(tied_dir, CPU, torch.float32).spec
    (tmp_path / "out").mkdir()
    export_model(tied_dir, tmp_path / "out", {}, spec)
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_directory_in_use_is_refused(tied_dir: Path, tmp_path: Path) -> None:
    spec = TrainableModel.load(tied_dir, CPU, torch.float32).spec
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(OperatorError, match="exists and is not empty"):
        export_model(tied_dir, tmp_path, {}, spec)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


class Broken(Mapping[int, Tensor]):
    """Gives block 0 and fails at block 1, as a damaged checkpoint would."""

    def __getitem__(self, index: int) -> Tensor:
        if index == 1:
            raise InternalError("damaged")
        raise KeyError(index)

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_a_failure_leaves_nothing_behind(tied_dir: Path, tmp_path: Path) -> None:
    spec = TrainableModel.load(tied_dir, CPU, torch.float32).spec
    with pytest.raises(InternalError):
        export_model(tied_dir, tmp_path / "out", Broken(), spec)
    assert list(tmp_path.iterdir()) == []


def test_a_block_of_the_wrong_size_is_a_bug_of_ours(tied_dir: Path, tmp_path: Path) -> None:
    spec = TrainableModel.load(tied_dir, CPU, torch.float32).spec
    with pytest.raises(InternalError, match=r"layer\.0 has"):
        export_model(tied_dir, tmp_path / "out", {1: torch.zeros(3)}, spec)
