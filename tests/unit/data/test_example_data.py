from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from decad.core.batch import IGNORED, Batch
from decad.data.local import LocalData, load_data
from decad.data.position import DataPosition
from decad.data.record import Record
from decad.data.records import read_records
from decad.errors import DataError

LABELS = ("bad", "good")
EOS, PAD = 256, 257


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def load(path: Path, tokenizer: Any, task: str = "causal-lm", **options: Any) -> LocalData:
    labels = LABELS if task == "classification" else ()
    return load_data([path], tokenizer, task, labels, options.pop("seq_len", 64), 0.0, 0, **options)


def all_of(data: LocalData) -> Batch:
    """In the data's own order."""
    return data.rows(torch.arange(data.train_sequences))


def learned(batch: Batch, tokenizer: Any) -> list[str]:
    """What is to be predicted in each example, without the end of the text."""
    return [text([t for t in row if t != IGNORED], tokenizer) for row in batch.targets.tolist()]


def text(tokens: list[int], tokenizer: Any) -> str:
    made: str = tokenizer.decode(tokens, skip_special_tokens=True)
    return made


def test_of_prompt_and_completion_the_completion_is_learned(folder: Path, tokenizer: Any) -> None:
    rows = [{"prompt": "2+2=", "completion": "4"}, {"prompt": "", "completion": "long answer"}]
    batch = all_of(load(write(folder / "d.jsonl", *rows), tokenizer))
    assert learned(batch, tokenizer) == [
        "4",
        "ong answer",
    ]  # of an empty prompt nothing comes before the first
    assert text(batch.inputs[0].tolist(), tokenizer) == "2+2=4"
    assert batch.targets[0, 4] == EOS


def test_shorter_examples_are_filled_up_and_masked(folder: Path, tokenizer: Any) -> None:
    rows = [{"prompt": "ab", "completion": "c"}, {"prompt": "abcdef", "completion": "gh"}]
    batch = all_of(load(write(folder / "d.jsonl", *rows), tokenizer))
    assert text(batch.inputs[0, :3].tolist(), tokenizer) == "abc"
    assert batch.inputs[0, 3:].tolist() == [EOS, PAD, PAD, PAD, PAD]
    assert batch.mask is not None
    assert batch.mask.sum(dim=1).tolist() == [4, 8]
    assert batch.tokens == 12


def chat(*turns: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]}


@pytest.mark.parametrize("marked", [False, True])
def test_of_a_conversation_the_assistants_turns_are_learned(
    folder: Path, tokenizer: Any, marked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if marked:
        monkeypatch.setattr(
            tokenizer,
            "chat_template",
            "{% for m in messages %}{{ '<' + m['role'] + '>' }}{% if m['role'] == 'assistant' %}{% generation %}"
            "{{ m['content'] + '\\n' }}{% endgeneration %}{% else %}{{ m['content'] + '\\n' }}{% endif %}{% endfor %}",
        )
    rows = [chat("hi", "hello", "and?", "bye"), chat("x", "y")]
    batch = all_of(load(write(folder / "d.jsonl", *rows), tokenizer))
    assert learned(batch, tokenizer) == ["hello\nbye\n", "y\n"]
    assert text(batch.inputs[1].tolist(), tokenizer).startswith("<user>x\n<assistant>y")


def test_a_template_that_rewrites_earlier_turns_is_refused(
    folder: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        tokenizer, "chat_template", "{% for m in messages %}{{ messages|length ~ m['content'] }}{% endfor %}"
    )
    with pytest.raises(DataError, match="writes earlier turns in another way"):
        load(write(folder / "d.jsonl", chat("a", "b", "c", "d"), chat("a", "b")), tokenizer)


def test_without_a_chat_template_conversations_are_refused(
    folder: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(DataError, match="no chat template"):
        load(write(folder / "d.jsonl", chat("a", "b")), tokenizer)


def test_classes_are_named_or_numbered(folder: Path, tokenizer: Any) -> None:
    rows = [{"text": "a", "label": "good"}, {"text": "b", "label": 0}, {"text": "c", "label": "1"}]
    batch = all_of(load(write(folder / "d.jsonl", *rows), tokenizer, "classification"))
    assert batch.targets.tolist() == [1, 0, 1]
    assert batch.mask is None


def test_two_texts_are_one_example(folder: Path, tokenizer: Any) -> None:
    rows = [{"premise": "a", "hypothesis": "b", "label": "good"}] * 2
    batch = all_of(load(write(folder / "d.jsonl", *rows), tokenizer, "classification"))
    assert text(batch.inputs[0].tolist(), tokenizer) == "ab"


def test_examples_are_cut_at_the_length_and_counted(folder: Path, tokenizer: Any) -> None:
    rows = [{"prompt": "abc", "completion": "d" * 100}, {"prompt": "abc", "completion": "d"}]
    data = load(write(folder / "d.jsonl", *rows), tokenizer, seq_len=10)
    assert all_of(data).inputs.shape == (2, 9)
    assert data.corpus.cut == 1


@pytest.mark.parametrize(
    ("bad", "wrong"),
    [
        ('{"text"', "it is not JSON"),
        ({"prompt": "a"}, "it has the columns prompt, and none of messages"),
        ({"prompt": "a", "completion": 3}, "its completion is not text"),
        ({"prompt": "a", "completion": None}, "it has the columns prompt, and none of"),
        ({"prompt": "a", "completion": ""}, "its completion is empty"),
        (
            {"prompt": "a" * 100, "completion": "b"},
            "nothing of it that is to be learned is among its first 64",
        ),
        ({"text": "plain"}, "it is plain text, and most of the data is conversations"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "no turn in messages is the assistant's"),
        ({"messages": "hi"}, "messages is not a list of turns"),
    ],
)
def test_a_bad_record_is_left_out_told_and_counted(
    bad: object, wrong: str, folder: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    good = {"prompt": "a", "completion": "b"}
    path = write(folder / "d.jsonl", good, bad, good)
    with caplog.at_level(logging.INFO, "decad"):
        data = load(path, tokenizer)
    losses = data.corpus.losses
    assert (data.train_sequences, losses.records) == (2, 1)
    assert losses.bytes == len(path.read_bytes().splitlines(keepends=True)[1])
    assert f"left out 1 record ({100 * losses.share:.1f} % of the bytes) that cannot be used: " in caplog.text
    assert f"{path}, line 2: {wrong}" in caplog.text
    with pytest.raises(DataError, match=r"--max-bad is 0: .*line 2: .*start with --max-bad 0\.\d"):
        load(path, tokenizer, max_bad=0.0)
    with pytest.raises(DataError, match=r"more than the [\d.]+ % that --max-bad allows: .*line 2: "):
        load(path, tokenizer, max_bad=losses.share - 0.01)


@pytest.mark.parametrize(
    ("bad", "wrong"),
    [
        ({"text": "a", "label": "fair"}, "its label 'fair' is none of bad, good"),
        ({"text": "a", "label": 2}, "its label 2 is none of"),
        ({"text": "a", "label": True}, "its label True is none of"),
        ({"text": "a"}, "a classifier needs text and label"),
    ],
)
def test_a_bad_label_is_left_out(bad: object, wrong: str, folder: Path, tokenizer: Any) -> None:
    with pytest.raises(DataError, match=wrong):
        load(write(folder / "d.jsonl", bad), tokenizer, "classification", max_bad=0.0)


def test_nothing_but_bad_records_is_an_error(folder: Path, tokenizer: Any) -> None:
    with pytest.raises(
        DataError, match=r"None of the 2 records can be used: .*line 1: it is not JSON .*and 1 more"
    ):
        load(write(folder / "d.jsonl", "x", "y"), tokenizer)


def test_one_record_is_too_little(folder: Path, tokenizer: Any) -> None:
    with pytest.raises(DataError, match="the data has one record, and two"):
        load(write(folder / "d.jsonl", {"prompt": "a", "completion": "b"}), tokenizer)


class TestKept:
    """Tokens are kept in the state directory, and read again while nothing changed."""

    @pytest.fixture
    def reads(self, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        read: list[Path] = []

        def spy(path: Path) -> Iterator[Record]:
            read.append(path)
            return read_records(path)

        monkeypatch.setattr("decad.data.tokens.read_records", spy)
        return read

    def test_they_are_read_once(
        self, folder: Path, tmp_path: Path, tokenizer: Any, reads: list[Path]
    ) -> None:
        path = write(folder / "d.jsonl", *[{"prompt": str(i), "completion": "x"} for i in range(9)])
        first, second = (all_of(load(path, tokenizer, keep=tmp_path)) for _ in range(2))
        assert torch.equal(first.inputs, second.inputs)
        assert len(reads) == 1

    def test_changed_data_is_read_anew_and_the_old_tokens_go(
        self, folder: Path, tmp_path: Path, tokenizer: Any, reads: list[Path]
    ) -> None:
        path = write(folder / "d.jsonl", *[{"prompt": str(i), "completion": "x"} for i in range(9)])
        load(path, tokenizer, keep=tmp_path)
        write(path, *[{"prompt": str(i), "completion": "y"} for i in range(10)])
        assert load(path, tokenizer, keep=tmp_path).train_sequences == 10
        assert len(reads) == 2
        assert len(list((tmp_path / "tokens").iterdir())) == 1

    def test_what_an_interrupted_start_left_goes(self, folder: Path, tmp_path: Path, tokenizer: Any) -> None:
        (tmp_path / "tokens" / "unfinished-x1").mkdir(parents=True)
        load(write(folder / "d.jsonl", *[{"prompt": "a", "completion": "x"}] * 2), tokenizer, keep=tmp_path)
        assert not (tmp_path / "tokens" / "unfinished-x1").exists()

    @pytest.mark.parametrize("theirs", ["data-mine", "tokens/mine", "tokens/0123456789abcdef"])
    def test_what_others_keep_there_stays(
        self, folder: Path, tmp_path: Path, tokenizer: Any, theirs: str
    ) -> None:
        precious = tmp_path / theirs / "precious.txt"
        precious.parent.mkdir(parents=True)
        precious.write_text("years of work")
        load(write(folder / "d.jsonl", *[{"prompt": "a", "completion": "x"}] * 2), tokenizer, keep=tmp_path)
        assert precious.read_text() == "years of work"

    def test_nobody_else_may_read_them(self, folder: Path, tmp_path: Path, tokenizer: Any) -> None:
        load(write(folder / "d.jsonl", *[{"prompt": "a", "completion": "x"}] * 2), tokenizer, keep=tmp_path)
        (kept,) = (tmp_path / "tokens").iterdir()
        assert kept.stat().st_mode & 0o077 == 0


def test_the_order_is_resumed_exactly(folder: Path, tokenizer: Any) -> None:
    rows = [{"prompt": f"{i:03d}", "completion": "x"} for i in range(20)]
    data = load(write(folder / "d.jsonl", *rows), tokenizer)
    first, position = data.batch(DataPosition(), 7)
    second, _ = data.batch(position, 20)
    again, _ = data.batch(DataPosition.from_dict(position.to_dict()), 20)
    assert torch.equal(second.inputs, again.inputs)
    seen = {tuple(row[:3]) for batch in (first, second) for row in batch.inputs.tolist()}
    assert len(seen) == 20


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_how_far_the_reading_is_can_be_heard(
    folder: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("decad.data.tokens.TELL_S", -1.0)
    monkeypatch.setattr("decad.data.records.PIECE", 1 << 16)
    line = {"txt": "word " * 40_000, "jsonl": json.dumps({"text": "word " * 40_000}), "csv": "word " * 40_000}
    path = folder / f"d.{kind}"
    path.write_text("".join(f"{row}\n" for row in [*(["text"] if kind == "csv" else []), *[line[kind]] * 8]))
    heard: list[str] = []
    load(path, tokenizer, tell=heard.append)
    (before, read) = [int(re.search(r"(\d+) MB of 2 MB", text)[1]) for text in (heard[0], heard[-1])]  # type: ignore[index]
    assert before < read


def test_a_bad_first_record_does_not_decide_what_the_data_is(folder: Path, tokenizer: Any) -> None:
    path = write(folder / "d.jsonl", {"text": ""}, *[{"prompt": "a", "completion": "x"}] * 3)
    assert load(path, tokenizer).corpus.losses.records == 1
