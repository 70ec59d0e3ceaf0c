"""Files as they come: one that is bad costs itself alone, what is lost is told, and a path is a path."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers

from decad.data.files import data_files
from decad.data.local import LocalData, load_data
from decad.data.record import Record
from decad.data.records import read_records
from decad.data.tokens import tokenise
from decad.errors import DataError

ROWS = [{"text": f"row number {i} of the table", "more": str(i)} for i in range(40)]


def load(paths: list[Path], tokenizer: Any, **options: Any) -> LocalData:
    return load_data(paths, tokenizer, "causal-lm", (), 24, 0.0, 0, **options)


def as_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    datasets.Dataset.from_list(rows).to_parquet(str(path))


def as_arrow(path: Path, rows: list[dict[str, Any]]) -> None:
    made = path.parent / ".made"
    datasets.Dataset.from_list(rows).save_to_disk(str(made))
    next(made.glob("*.arrow")).rename(path)


def as_saved(path: Path, rows: list[dict[str, Any]]) -> None:
    made = path.parent / ".made"
    datasets.Dataset.from_list(rows).save_to_disk(str(made))
    made.rename(path)


def as_json(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows))


def as_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = [list(rows[0]), *([row[name] or "" for name in rows[0]] for row in rows)]
    path.write_text("".join(",".join(line) + "\n" for line in lines))


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    ".jsonl": as_jsonl,
    ".json": as_json,
    ".csv": as_csv,
    ".parquet": as_parquet,
    ".arrow": as_arrow,
    "": as_saved,
}


@given(
    columns=st.integers(1, 3),
    quotes=st.dictionaries(st.integers(0, 19), st.integers(0, 2), min_size=1, max_size=3),
    quoted=st.booleans(),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_stray_quote_costs_its_row_alone(
    folder: Path, columns: int, quotes: dict[int, int], quoted: bool
) -> None:
    """Wherever it opens a cell, whatever comes after it; other cells may be quoted well, and have line ends."""
    rows = [[f"cell {row} {column}" for column in range(columns)] for row in range(20)]
    written = [
        [f'"{cell}\n"' if quoted and i % 4 == 3 else cell for cell in row] for i, row in enumerate(rows)
    ]
    for row, column in quotes.items():
        written[row] = list(rows[row])
        written[row][column % columns] = f'"{rows[row][column % columns]}'
    path = folder / "d.csv"
    lines = [",".join(row) for row in written]
    path.write_text("\n".join([",".join("abc"[:columns]), *lines]) + "\n")
    found = list(read_records(path))
    good = [list(record.columns.values()) for record in found if not record.wrong]
    expected = [
        [f"{cell}\n" if quoted and i % 4 == 3 else cell for cell in row]
        for i, row in enumerate(rows)
        if i not in quotes
    ]
    assert good == expected
    bad = [record for record in found if record.wrong]
    assert [record.size for record in bad] == [len(lines[row]) + 1 for row in sorted(quotes)]
    before = {row: sum(line.count("\n") + 1 for line in lines[:row]) for row in quotes}
    assert [record.place for record in bad] == [f"{path}, line {2 + before[row]}" for row in sorted(quotes)]


@pytest.mark.parametrize("turn", range(4))
def test_the_kind_that_has_most_is_kept_wherever_the_others_stand(
    folder: Path, tokenizer: Any, turn: int
) -> None:
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows: list[dict[str, Any]] = [{"text": "a"}, *[chat] * 60]
    as_jsonl(folder / "d.jsonl", rows[turn * 20 :] + rows[: turn * 20])
    data = load([folder], tokenizer, max_bad=0.05)
    assert (data.corpus.kind, data.corpus.records, data.corpus.losses.records) == ("examples", 60, 1)
    assert "it is plain text, and most of the data is conversations" in data.corpus.losses.listed
    as_jsonl(folder / "d.jsonl", [*[{"text": "a word or two"}] * 15, *[chat] * 20])
    with pytest.raises(DataError, match=r"15 records \(1\d\.\d % of the bytes\) of the data cannot be used"):
        load([folder], tokenizer, max_bad=0.05)


BAD_FILES = {
    "empty.txt": b"",
    "picture.txt": bytes(range(256)) * 3,
    "latin.txt": "caf\u00e9".encode("latin-1"),
    "no.json": b"[{",
    "no.parquet": b"garbage",
    "no.arrow": b"garbage",
    "empty.csv": b"",
    "header.csv": b'"text\n',
    "no.jsonl": b"{\n",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_among_good_ones_is_told_and_left_out(folder: Path, tokenizer: Any, name: str) -> None:
    (folder / name).write_bytes(BAD_FILES[name])
    (folder / "good.txt").write_text("a good text that is long enough\n" * 2000)
    losses = load([folder], tokenizer, max_bad=0.05).corpus.losses
    assert (losses.records, losses.bytes) == (1, len(BAD_FILES[name]))
    assert losses.listed.startswith(str(folder / name))


def test_all_bad_files_are_told_at_once_and_no_advice_does_harm(folder: Path, tokenizer: Any) -> None:
    for name, content in BAD_FILES.items():
        (folder / name).write_bytes(content)
    (folder / "good.txt").write_text("a good text that is long enough\n" * 2)
    with pytest.raises(
        DataError, match=r"9 records .*; and \d others. Mend them; or, .* --max-bad 0\.\d\d"
    ) as told:
        load([folder], tokenizer, max_bad=0.05)
    assert "iconv" not in str(told.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".csv"])
def test_texts_of_every_encoding_that_names_itself(folder: Path, suffix: str, encoding: str) -> None:
    text = "a caf\u00e9 in \u4eac\u90fd \U0001f600"
    row = {
        ".txt": text,
        ".jsonl": json.dumps({"text": text}, ensure_ascii=False) + "\n",
        ".json": json.dumps([{"text": text}], ensure_ascii=False),
        ".csv": f"text\n{text}\n",
    }[suffix]
    mark = "\ufeff" if encoding in ("utf-16-be", "utf-16-le") else ""
    path = folder / f"d{suffix}"
    path.write_bytes((mark + row).encode(encoding))
    (record,) = read_records(path)
    assert (record.columns, record.wrong) == ({"text": text}, "")


def test_hidden_files_are_passed_over_unless_they_are_named(folder: Path) -> None:
    for name in ("a.txt", "._a.txt", ".hidden.txt", ".ipynb_checkpoints/a.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    assert data_files([folder]) == [folder / "a.txt"]
    assert data_files([folder / ".hidden.txt"]) == [folder / ".hidden.txt"]


def test_a_chat_that_the_template_rewrites_is_a_bad_record(
    folder: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = (
        "{% for m in messages %}{% if m.content != 'think' or loop.last %}{{ m.role ~ m.content }}{% endif %}"
        "{% endfor %}"
    )
    monkeypatch.setattr(tokenizer, "chat_template", template)

    def chat(*turns: str) -> dict[str, Any]:
        return {
            "messages": [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(turns)]
        }

    as_jsonl(folder / "d.jsonl", [*[chat("a", "b")] * 30, chat("a", "think", "b", "c")])
    data = load([folder], tokenizer, max_bad=0.1)
    assert (data.corpus.records, data.corpus.losses.records) == (30, 1)
    assert "writes earlier turns in another way" in data.corpus.losses.listed


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"messages": None, "prompt": None, "completion": None, "text": "hello there"}, "packed"),
        ({"messages": None, "prompt": "a", "completion": "b", "text": None}, "examples"),
        ({"messages": None, "prompt": None, "completion": "b", "text": None}, "examples"),
    ],
)
def test_a_column_that_is_null_is_not_there(
    folder: Path, tokenizer: Any, suffix: str, row: dict[str, Any], kind: str
) -> None:
    WRITERS[suffix](folder / f"d{suffix}", [row] * 20)
    corpus = load([folder / f"d{suffix}"], tokenizer).corpus
    assert (corpus.kind, corpus.records, corpus.losses.records) == (kind, 20, 0)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_turn_whose_field_is_null_does_not_have_it(
    folder: Path, tokenizer: Any, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = (
        "{% for m in messages %}{% if 'calls' in m %}{% for c in m.calls %}{{ c }}{% endfor %}{% endif %}"
        "{{ m.role ~ m.content }}{% endfor %}"
    )
    monkeypatch.setattr(tokenizer, "chat_template", template)
    turns = [
        {"role": "user", "content": "a", "calls": None},
        {"role": "assistant", "content": "b", "calls": None},
    ]
    called = [
        {"role": "user", "content": "a", "calls": ["x"]},
        {"role": "assistant", "content": "b", "calls": None},
    ]
    WRITERS[suffix](folder / f"d{suffix}", [{"messages": turns}, {"messages": called}])
    corpus = load([folder / f"d{suffix}"], tokenizer).corpus
    assert (corpus.records, corpus.losses.records) == (2, 0)


@pytest.mark.parametrize("suffix", [*WRITERS, ".txt"])
@pytest.mark.parametrize("name", ["train[a]", "a*b", "what?", "~home", "{a,b}", "a b", "$HOME", "%20"])
def test_a_path_is_a_path(folder: Path, name: str, suffix: str) -> None:
    """Never a pattern, a variable or an address, whatever library reads it."""
    path = folder / f"{name}{suffix}"
    if suffix == ".txt":
        path.write_text("x")
    else:
        WRITERS[suffix](path, ROWS)
    for found in (data_files([folder]), data_files([path])):
        assert found == [path]
    records = list(read_records(path))
    assert not any(record.wrong for record in records)
    assert len(records) == (1 if suffix == ".txt" else len(ROWS))


def test_links_that_lead_in_circles_end(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    for place in (folder, folder / "a", folder / "a" / "b"):
        (place / "x.txt").write_text("x")
        for number, target in enumerate((folder, folder / "a", folder / "a" / "b")):
            (place / f"link{number}").symlink_to(target)
        (place / "nowhere").symlink_to("nowhere")
    assert len(data_files([folder])) == 3


class TestCache:
    """Kept tokens are those of this data, this tokenizer and these settings, or they are made anew."""

    @pytest.fixture
    def reads(self, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        read: list[Path] = []

        def spy(path: Path) -> Iterator[Record]:
            read.append(path)
            return read_records(path)

        monkeypatch.setattr("decad.data.tokens.read_records", spy)
        return read

    @pytest.mark.parametrize(
        "change",
        [
            lambda t: setattr(t, "eos_token", "a"),
            lambda t: setattr(t, "pad_token", "a"),
            lambda t: setattr(t, "bos_token", "a"),
            lambda t: setattr(t, "unk_token", "a"),
            lambda t: setattr(t, "chat_template", "{{ messages }}"),
            lambda t: t.add_tokens(["row number"]),
            lambda t: t.add_tokens([AddedToken("the table", special=True)], special_tokens=True),
            lambda t: setattr(t.backend_tokenizer, "normalizer", normalizers.Lowercase()),
        ],
        ids=["eos", "pad", "bos", "unk", "template", "token", "special token", "normaliser"],
    )
    def test_any_change_of_the_tokenizer_reads_the_data_anew(
        self,
        folder: Path,
        tmp_path: Path,
        fresh_tokenizer: Any,
        reads: list[Path],
        change: Callable[[Any], None],
    ) -> None:
        as_jsonl(folder / "d.jsonl", ROWS)
        for _ in range(2):
            load([folder], fresh_tokenizer, keep=tmp_path)
        assert len(reads) == 1
        change(fresh_tokenizer)
        load([folder], fresh_tokenizer, keep=tmp_path)
        assert len(reads) == 2
        assert len(list((tmp_path / "tokens").iterdir())) == 1

    def test_what_may_be_left_out_is_asked_at_every_start(
        self, folder: Path, tmp_path: Path, tokenizer: Any, reads: list[Path]
    ) -> None:
        (folder / "d.jsonl").write_text("{\n" + json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1]) + "\n")
        load([folder], tokenizer, keep=tmp_path, max_bad=0.5)
        with pytest.raises(DataError, match="--max-bad is 0"):
            load([folder], tokenizer, keep=tmp_path, max_bad=0.0)
        assert load([folder], tokenizer, keep=tmp_path, max_bad=0.5).corpus.losses.records == 1
        assert len(reads) == 1

    def test_the_setting_of_the_length_counts(self, folder: Path, tmp_path: Path, tokenizer: Any) -> None:
        as_jsonl(folder / "d.jsonl", [{"prompt": "a", "completion": "long " * 20}] * 3)
        lengths = [
            tokenise([folder], tokenizer, "causal-lm", (), length, keep=tmp_path).corpus.tokens
            for length in (16, 32)
        ]
        assert lengths == [48, 96]
