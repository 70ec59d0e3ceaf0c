from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from decad.state.files import hash_file, write_file
from decad.state.tensors import DTYPES, read_tensors, serialise


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 1)])
def test_the_library_reads_what_we_write_and_we_read_what_it_writes(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensors = {"a": torch.ones(shape, dtype=dtype), "odd": torch.ones(3, dtype=torch.uint8)}
    write_file(tmp_path / "ours", serialise(tensors))
    save_file(tensors, tmp_path / "theirs")
    for read in (load_file(tmp_path / "ours"), read_tensors(tmp_path / "theirs")):
        assert read.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert read[name].dtype == tensor.dtype
            assert read[name].shape == tensor.shape
            assert torch.equal(read[name], tensor)


def test_strided_tensors_are_written_as_they_look(tmp_path: Path) -> None:
    transposed = torch.arange(6.0).view(2, 3).T
    write_file(tmp_path / "file", serialise({"x": transposed}))
    assert read_tensors(tmp_path / "file")["x"].tolist() == transposed.tolist()


def test_every_tensor_is_aligned_to_its_element(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(1, dtype=torch.float64)}
    pieces = [bytes(piece) for piece in serialise(tensors)]
    assert len(pieces[0]) % 8 == 0
    assert [len(piece) for piece in pieces[1:]] == [8, 3]


def test_equal_tensors_give_equal_hashes(tmp_path: Path) -> None:
    one = write_file(tmp_path / "1", serialise({"a": torch.ones(2), "b": torch.zeros(2)}))
    two = write_file(tmp_path / "2", serialise({"b": torch.zeros(2), "a": torch.ones(2)}))
    assert one == two == hash_file(tmp_path / "1")


def test_what_is_read_is_memory_of_its_own(tmp_path: Path) -> None:
    write_file(tmp_path / "file", serialise({"a": torch.zeros(5), "b": torch.ones(3)}))
    read = read_tensors(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"")  # a map would now end the process
    read["a"].add_(1)
    assert read["a"].tolist() == [1.0] * 5
    assert read["b"].tolist() == [1.0] * 3
    assert [t.untyped_storage().nbytes() for t in (read["a"], read["b"])] == [20, 12]
