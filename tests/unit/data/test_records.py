from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from decad.data.files import data_files
from decad.data.records import read_records
from decad.errors import DataError

ROWS = [{"text": "one, two", "label": "a"}, {"text": 'a "b"\nc', "label": "b"}]


def as_jsonl(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n\n" for row in ROWS))
    return path


def as_json(path: Path) -> Path:
    path.write_text(json.dumps(ROWS, indent=1))
    return path


def as_csv(path: Path) -> Path:
    path.write_bytes(b'\xef\xbb\xbftext,label\r\n"one, two",a\r\n"a ""b""\nc",b\r\n')
    return path


def as_parquet(path: Path) -> Path:
    datasets.Dataset.from_list(ROWS).to_parquet(str(path))
    return path


def as_saved(path: Path) -> Path:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(path))
    return path


def as_arrow(path: Path) -> Path:
    as_saved(path.with_suffix(".dir"))
    next(path.with_suffix(".dir").glob("*.arrow")).rename(path)
    return path


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (as_jsonl, "d.jsonl"),
        (as_jsonl, "lines.json"),
        (as_json, "d.json"),
        (as_csv, "d.csv"),
        (as_parquet, "d.parquet"),
        (as_arrow, "d.arrow"),
        (as_saved, "saved"),
    ],
)
def test_every_kind_of_file_gives_the_same_records(
    write: Callable[[Path], Path], name: str, folder: Path
) -> None:
    records = list(read_records(write(folder / name)))
    assert [dict(record.columns) for record in records] == ROWS
    assert not any(record.wrong for record in records)


@pytest.mark.parametrize(
    ("name", "content", "place", "wrong"),
    [
        ("d.jsonl", b'{"text": "a"}\n{"text": \n', "line 2", "it is not JSON"),
        ("d.jsonl", b'{"text": "a"}\n\n{"text": "\xff"}\n', "line 3", "it is not UTF-8"),
        ("d.jsonl", b'{"text": "a"}\n[1]\n', "line 2", "not an object"),
        ("d.json", b'[{"text": "a"}, 3]', "record 2", "not an object"),
        ("d.csv", b"text,label\na,b\nc\n", "line 3", "1 columns and the first line names 2"),
        ("d.csv", b"text\na\n\xff\n", "line 3", "not UTF-8"),
    ],
)
def test_a_bad_record_is_told_by_its_place_and_the_rest_is_read(
    name: str, content: bytes, place: str, wrong: str, folder: Path
) -> None:
    path = folder / name
    path.write_bytes(content)
    good, bad = read_records(path)
    assert good.columns["text"] == "a"
    assert (bad.place, wrong in bad.wrong) == (f"{path}, {place}", True)


@pytest.mark.parametrize("name", ["d.parquet", "d.arrow"])
def test_a_damaged_file_is_named(name: str, folder: Path) -> None:
    (folder / name).write_bytes(b"garbage" * 100)
    (bad,) = read_records(folder / name)
    assert bad.wrong.startswith(f"it cannot be read as .{name[2:]}: ")
    assert (bad.place, bad.size) == (str(folder / name), 700)


def test_a_saved_dataset_without_a_training_split_is_refused(folder: Path) -> None:
    datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(folder / "saved"))
    (bad,) = read_records(folder / "saved")
    assert "has the splits test and none called train" in bad.wrong


def test_directories_are_searched_and_saved_datasets_kept_whole(folder: Path) -> None:
    as_saved(folder / "sub" / "saved")
    as_csv(folder / "b.csv")
    (folder / "notes.md").write_text("no")
    assert data_files([folder, folder / "b.csv"]) == [folder / "b.csv", folder / "sub" / "saved"]


def test_a_file_of_another_kind_is_refused_when_it_is_named(folder: Path) -> None:
    (folder / "notes.md").write_text("no")
    with pytest.raises(DataError, match=r"notes\.md is of no kind that decad reads"):
        data_files([folder / "notes.md"])


def test_datasets_writes_nothing_of_its_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home)
    as_parquet(folder / "d.parquet")
    before: Any = sorted(tmp_path.rglob("*"))
    list(read_records(folder / "d.parquet"))
    assert sorted(tmp_path.rglob("*")) == before
