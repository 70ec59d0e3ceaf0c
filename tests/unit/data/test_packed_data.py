from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from decad.core.batch import Batch
from decad.data.local import LocalData, load_data
from decad.data.position import DataPosition
from decad.errors import DataError

EOS = 999


class ByteTokenizer:
    """One token a byte."""

    eos_token_id = EOS

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return list(text.encode())


def load(*paths: Path, seq_len: int = 8, held_out: float = 0.25, seed: int = 0) -> LocalData:
    return load_data(paths, ByteTokenizer(), "causal-lm", (), seq_len, held_out, seed)


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def every_sequence(data: LocalData) -> list[list[int]]:
    train, _ = data.batch(DataPosition(), data.train_sequences)
    return [row for batch in (train, *data.held_out_batches(64, 1000)) for row in sequences(batch)]


def sequences(batch: Batch) -> list[list[int]]:
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    rows: list[list[int]] = torch.cat([batch.inputs, batch.targets[:, -1:]], dim=1).tolist()
    return rows


def test_documents_are_packed_end_to_end_with_the_end_token_between(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.txt", "abcde"), write(tmp_path / "b.txt", "fghi")
    data = load(a, b, seq_len=5)
    assert sorted(every_sequence(data)) == [[*b"abcde"], [EOS, *b"fghi"]]
    assert (data.corpus.tokens, data.corpus.records) == (11, 2)


def test_a_directory_is_read_recursively_in_sorted_order_and_only_txt(tmp_path: Path) -> None:
    write(tmp_path / "z.txt", "33333333")
    write(tmp_path / "sub" / "deep" / "a.txt", "1111111")
    write(tmp_path / "notes.md", "no")
    data = load(tmp_path, seq_len=8)
    assert sorted(every_sequence(data)) == [[*b"1111111", EOS], [*b"33333333"]]


def test_a_file_given_twice_is_read_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "x" * 40)
    assert load(file, tmp_path).corpus.tokens == 41


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    assert load(write(tmp_path / "a.txt", b"\xef\xbb\xbf" + b"x" * 40)).corpus.tokens == 41


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
class TestLongText:
    @pytest.fixture(autouse=True)
    def short_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("decad.data.records.PIECE", 10)

    def pieces(self, path: Path, text: str) -> list[str]:
        """What the tokenizer is given."""
        seen: list[str] = []

        class Spy(ByteTokenizer):
            def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
                seen.append(text)
                return super().encode(text, add_special_tokens=add_special_tokens)

        data = load_data(
            [write(path, text if path.suffix == ".txt" else json.dumps({"text": text}))],
            Spy(), "causal-lm", (), 8, 0.1, 0,
        )  # fmt: skip
        assert (data.corpus.tokens, data.corpus.records) == (len(text.encode()) + 1, 1)
        return seen

    def test_comes_in_pieces_that_end_with_lines(self, tmp_path: Path, name: str) -> None:
        text = "".join(f"line {i}\r\n" for i in range(40)) + "the end"
        seen = self.pieces(tmp_path / name, text)
        assert "".join(seen) == text
        assert len(seen) > 10
        assert {piece[-1] for piece in seen[:-1]} == {"\n"}

    def test_a_line_without_end_is_cut(self, tmp_path: Path, name: str) -> None:
        seen = self.pieces(tmp_path / name, "\u00e4" * 95)
        assert [len(piece) for piece in seen] == [20, 20, 20, 20, 15]


@pytest.mark.parametrize("place", [3, 9, 10, 11, 50])
def test_a_byte_that_is_no_text_is_named_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.setattr("decad.data.encoding.PIECE", 10)
    path = write(tmp_path / "a.txt", (b"x" * place + b"\xc3" + b"x" * 20_000))
    with pytest.raises(DataError, match=rf"byte {place} \(0xc3\)"):
        load(path)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.001, 1), (0.3, 3), (0.5, 5), (0.999, 9)])
def test_held_out_share_leaves_something_on_both_sides(tmp_path: Path, share: float, expected: int) -> None:
    data = load(write(tmp_path / "a.txt", "x" * 8 * 10), held_out=share)
    assert (data.held_out, data.train_sequences) == (expected, 10 - expected)


def test_held_out_sequences_are_never_trained_on(tmp_path: Path) -> None:
    data = load(write(tmp_path / "a.txt", "".join(f"{i:08d}" for i in range(50))))
    assert len({tuple(row) for row in every_sequence(data)}) == 50


def test_held_out_batches_stop_at_the_limit(tmp_path: Path) -> None:
    data = load(write(tmp_path / "a.txt", "x" * 8 * 20), held_out=0.5)
    assert [len(batch.inputs) for batch in data.held_out_batches(4, 100)] == [4, 4, 2]
    assert [len(batch.inputs) for batch in data.held_out_batches(4, 1)] == [4]


def test_batches_are_int64_and_predict_all_tokens_but_the_first(tmp_path: Path) -> None:
    batch, _ = load(write(tmp_path / "a.txt", "x" * 100)).batch(DataPosition(3), 5)
    assert {(part.dtype, tuple(part.shape)) for part in (batch.inputs, batch.targets)} == {
        (torch.int64, (5, 7))
    }


def test_the_order_is_frozen(tmp_path: Path) -> None:
    """A resumed run must read on where it stopped, also after an upgrade: this order may never change."""
    data = load(write(tmp_path / "a.txt", "".join(f"{i:08d}" for i in range(10))), held_out=0.2, seed=7)
    batch, _ = data.batch(DataPosition(), 8)
    order = [int(bytes(row)) for row in sequences(batch)]
    assert order == [4, 5, 1, 6, 2, 8, 0, 3]


def test_position_survives_its_record() -> None:
    assert DataPosition.from_dict(DataPosition(41).to_dict()) == DataPosition(41)


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist. Give --data"):
        load(tmp_path / "nowhere")


def test_directory_without_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no data files"):
        load(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.txt: it is empty"):
        load(write(tmp_path / "a.txt", ""))


def test_not_utf8_names_file_and_byte(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.txt: it is not UTF-8 text: byte 4 \(0xe9\)"):
        load(write(tmp_path / "a.txt", b"caf-\xe9"))


def test_too_little_text_says_how_many_tokens_and_which_length_fits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 30 tokens.*need 32.*--seq-len to 15 or less"):
        load(write(tmp_path / "a.txt", "x" * 29), seq_len=16)


def test_far_too_little_text_advises_no_length_below_the_smallest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 4 tokens.*Add text\.$"):
        load(write(tmp_path / "a.txt", "abc"))
