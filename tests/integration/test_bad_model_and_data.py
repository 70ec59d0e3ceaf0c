"""What an operator reads when a model or data cannot be used: input, exit code, words that must appear.

Nothing is written or sent when start-up fails: the state directory holds at most its lock, and no port was opened.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
from support.daemon import Fleet
from support.families import save_tiny

pytestmark = pytest.mark.timeout(60)

CONFIG, MODEL, DATA = 2, 3, 4
"""docs/reference/exit-codes.md."""

NO_MEMORY = """
from decad.daemon import inputs
inputs.available_memory = lambda device: 100_000
"""

CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
ROWS = [
    # flags; files; exit code; words
    (
        "--model llama --blocks some",
        {},
        CONFIG,
        "--blocks some is not known. Use layers, sublayers, a number",
    ),
    (
        "--model llama --blocks none",
        {},
        CONFIG,
        "--blocks none trains nothing without adapters: give --adapters",
    ),
    ("--model llama --blocks 500", {}, CONFIG, "--blocks 500: this model can be divided evenly into 1 to"),
    ("--model llama --blocks a=model.lay", {}, CONFIG, "--blocks: 'model.lay' matches no parameter"),
    ("--model llama --blocks a=model", {}, CONFIG, "--blocks: 1 parameters are in no block, lm_head.weight"),
    (
        "--model llama --blocks a=model,lm_head;b=lm_head",
        {},
        CONFIG,
        "lm_head.weight is in two blocks, a and b",
    ),
    (
        "--model llama --blocks a=;b=model,lm_head",
        {},
        CONFIG,
        "'a=' is a block without patterns. Write NAME=",
    ),
    ("--model llama --blocks x;b=model,lm_head", {}, CONFIG, "'x' is a block without patterns. Write NAME="),
    (
        "--model llama --blocks =model,lm_head",
        {},
        CONFIG,
        "'=model,lm_head' is a block without a name. Write",
    ),
    ("--model llama --freeze model.nothing", {}, CONFIG, "--freeze: 'model.nothing' matches no parameter"),
    ("--model llama --freeze model,lm_head", {}, CONFIG, "--freeze leaves nothing to train"),
    (
        "--model llama --task classification",
        {},
        CONFIG,
        "does not say what its classes are. Give them all with",
    ),
    ("--model bert --labels a,b,c", {}, CONFIG, "the model's head has 2 classes, and --labels (or"),
    ("--model llama --labels a,b", {}, CONFIG, "--labels is for --task classification"),
    ("--model body", {}, MODEL, "holds a BertModel, which decad cannot tell"),
    ("--model t5", {}, MODEL, "holds a T5ForConditionalGeneration, which decad cannot tell"),
    (
        "--model llama --data d.docx",
        {"d.docx": "x"},
        DATA,
        "d.docx is of no kind that decad reads (.txt, .jsonl,",
    ),
    (
        "--model llama --data d.jsonl",
        {"d.jsonl": "{\n{\n"},
        DATA,
        "None of the 2 records can be used: ",
    ),
    (
        "--model llama --data d.jsonl --max-bad 0",
        {"d.jsonl": '{"text": "a"}\n{\n'},
        DATA,
        "d.jsonl, line 2: it is",
    ),
    (
        "--model llama --data d.csv",
        {"d.csv": "name,age\nx,3\n"},
        DATA,
        "it has the columns name, age, and none of",
    ),
    ("--model llama --data d.csv", {"d.csv": ""}, DATA, "d.csv: it is empty"),
    ("--model llama --data d.json", {"d.json": "[{"}, DATA, "d.json: it is not JSON"),
    ("--model llama --data d.parquet", {"d.parquet": "no"}, DATA, "d.parquet: it cannot be read as .parquet"),
    (
        "--model llama --data d.jsonl",
        {"d.jsonl": json.dumps(CHAT)},
        DATA,
        "has no chat template to write them with",
    ),
    ("--model bert --data d.jsonl", {"d.jsonl": '{"text": "a"}'}, DATA, "a classifier needs text and label"),
    (
        "--model bert --data d.jsonl",
        {"d.jsonl": '{"text": "a", "label": "x"}'},
        DATA,
        "its label 'x' is none of bad",
    ),
    (
        "--model llama --data d.txt --seq-len 2000",
        {"d.txt": "x"},
        CONFIG,
        "--seq-len 2000 is longer than the 512",
    ),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny("llama", folder / "llama")
    save_tiny("bert", folder / "bert", labels=2)
    for name, kind, made_for in (
        ("body", "bert", "BertModel"),
        ("t5", "llama", "T5ForConditionalGeneration"),
    ):
        shutil.copytree(folder / kind, folder / name)
        config = json.loads((folder / name / "config.json").read_text())
        (folder / name / "config.json").write_text(json.dumps(config | {"architectures": [made_for]}))
    return folder


@pytest.mark.parametrize(("flags", "files", "code", "words"), ROWS, ids=lambda value: str(value)[:60])
def test_start_says_what_is_wrong(
    flags: str, files: dict[str, str], code: int, words: str, models: Path, peers: Fleet
) -> None:
    for name, content in files.items():
        (peers.folder / name).write_text(content)
    name = flags.split()[1]
    options = [*(("--labels", "bad,good") if name == "bert" else ()), *flags.split()[2:]]
    daemon = peers.start("x", "--model", str(models / name), *options)
    result = daemon.result()
    *_, last = result.err.splitlines()
    assert words in last, result.err
    assert last.startswith("decad: ")
    assert result.code == code
    assert "listens on" not in result.err
    # What was read is kept for a start that allows what is lost.
    assert {path.name for path in daemon.state_dir.glob("*")} <= {
        "lock",
        *(["tokens"] if "--max-bad" in flags else []),
    }


def test_a_machine_that_is_too_small_is_told_so_with_the_figures(models: Path, peers: Fleet) -> None:
    result = peers.start("x", "--model", str(models / "llama"), before=NO_MEMORY).result()
    assert result.code == MODEL
    assert re.search(
        r"needs at least 0\.00 GiB on cpu, of which 0\.00 are available: .* Try --dtype bf", result.err
    )
    assert "decad blocks" in result.err


def test_bad_records_are_told_counted_and_left_out(models: Path, peers: Fleet) -> None:
    good = [json.dumps({"prompt": f"{n} and 1", "completion": f"{n + 1}"}) for n in range(40)]
    (peers.folder / "d.jsonl").write_text("\n".join([*good[:20], "{", "[]", *good[20:]]))
    data = ("--data", str(peers.folder / "d.jsonl"))
    x = peers.start("x", "--model", str(models / "llama"), *data)
    x.until(lambda reply: any("2 records (0." in notice.text for notice in reply.notices))
    x.signal(signal.SIGTERM)
    result = x.result()
    assert result.code == 0
    assert re.search(r"left out 2 records \(0\.\d+ % of the bytes\) that cannot be used: ", result.err)
    assert "d.jsonl, line 21: it is not JSON" in result.err
    assert "d.jsonl, line 22: it is not an object with named columns" in result.err
    assert "36 examples to train on, 4 held out" in result.err
