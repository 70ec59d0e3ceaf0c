"""`decad lab report` and `decad lab compare`: what they write and print."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.lab_runs import campaign, evaluation, plausible, write_run

from decad.cli.main import cli
from decad.errors import ConfigError, OperatorError
from decad.lab.reproduce import command, experiment_file
from decad.lab.runs import Run, find_runs, read_run


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["lab", *map(str, words)])


class Page(HTMLParser):
    """What a page asks a browser for, and how its tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compared")
    done = run(
        "compare", campaign(root / "runs", classes=4), "--into", root / "out", "--title", "Rules & rivals"
    )
    assert done.exit_code == 0, done.exception
    return root / "out"


def test_the_page_needs_nothing_beside_it(compared: Path) -> None:
    page = Page((compared / "report.html").read_text())
    assert len(page.sources) == 10
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert page.open == []
    assert "script" not in page.tags


def test_the_page_is_titled_and_fits_a_phone(compared: Path) -> None:
    text = (compared / "report.html").read_text()
    assert "<title>Rules &amp; rivals</title>" in text
    assert '<meta name="viewport" content="width=device-width' in text
    assert text.count('<div class="scroll"><table>') == text.count("<table>") > 0


def test_the_pictures_that_the_markdown_shows_are_there_in_both_formats(compared: Path) -> None:
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\.png\)", (compared / "report.md").read_text())
    assert {path.stem for path in compared.glob("*.png")} == set(shown)
    assert {path.stem for path in compared.glob("*.svg")} == set(shown)


def test_the_report_tells_of_runs_that_did_not_end(compared: Path) -> None:
    text = (compared / "report.md").read_text()
    assert re.search(r"6-fedavg-2: \*\*Interrupted, last evaluated at step 220 of 400", text)


def test_the_report_names_its_own_command(compared: Path) -> None:
    text = (compared / "report.md").read_text()
    assert f"decad lab compare {compared.parent}/runs --into {compared}" in text


def test_compare_prints_what_stands_at_the_budgets_that_are_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [evaluation(0), evaluation(50, sent=40e6, compute=18)])
    done = run("compare", tmp_path, "--steps", "40", "--megabytes", "30")
    assert re.findall(r"^At (equal \w+: \d+)", done.output, re.MULTILINE) == [
        "equal steps: 40",
        "equal bytes: 30",
        "equal compute: 18",
    ]


def test_compare_without_into_writes_nothing(tmp_path: Path) -> None:
    plausible(tmp_path / "a", end=2.0)
    before = sorted(tmp_path.rglob("*"))
    assert run("compare", tmp_path).exit_code == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_compare_for_machines(tmp_path: Path) -> None:
    for seed, loss in ((0, 1.0), (1, 2.0)):
        write_run(tmp_path / str(seed), [evaluation(0, 3.0), evaluation(20, loss, sent=2e6)], seed=seed)
    found = json.loads(run("compare", tmp_path, "--json").output)
    (group,) = found["groups"]
    assert [(one["seed"], one["state"]) for one in group["runs"]] == [(0, "finished"), (1, "finished")]
    assert (found["equal_bytes"]["budget"], found["equal_bytes"]["unit"]) == (2, "MB")
    (row,) = found["equal_steps"]["rows"]
    assert row["averaged_loss"] == pytest.approx({"mean": 1.5, "std": 0.5**0.5})
    assert row["runs_that_reach_it"] == 2


def test_a_runs_report_is_written_beside_what_it_left(tmp_path: Path) -> None:
    directory = plausible(tmp_path / "a", end=2.0, name="A first run")
    assert run("report", directory).exit_code == 0
    text = (directory / "report.md").read_text()
    assert text.startswith("# A first run\n\nFinished: 400 steps in 100 s")
    assert re.search(r"^\| memory: peak of these together +\| +596 MiB \|$", text, re.MULTILINE)
    Page((directory / "report.html").read_text())


def test_a_run_without_evaluations_has_a_report_that_says_so(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "a", [], finished=False)
    assert run("report", directory).exit_code == 0
    assert "**Interrupted, before its first evaluation.**" in (directory / "report.md").read_text()


def test_a_runs_report_for_machines(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "a", [evaluation(0), evaluation(20, float("nan"))])
    found = json.loads(run("report", directory, "--json").output)
    assert (found["state"], found["last"]["step"], found["last"]["averaged"]["loss"]) == (
        "finished",
        20,
        None,
    )
    assert not (directory / "report.md").exists()


def test_what_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    assert isinstance(run("report", tmp_path).exception, ConfigError)


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    missing = run("compare", tmp_path).exception
    assert isinstance(missing, OperatorError)
    assert "matplotlib, markdown_it" in str(missing)
    assert "pip install 'decad[lab]'" in str(missing)


# -- the commands that make runs again ------------------------------------------------------------------------


def asked(made: str, file: str) -> dict[str, object]:
    """What `decad lab run` would be told: the file, and on top of it --set."""
    words = shlex.split(made)
    values = tomllib.loads(file)
    flat = {**values, **{f"options.{name}": value for name, value in values.pop("options", {}).items()}}
    for word, text in pairwise(words):
        if word == "--set":
            name, _, value = text.partition("=")
            try:
                flat[name] = tomllib.loads(f"v = {value}")["v"]
            except tomllib.TOMLDecodeError:
                flat[name] = value
    return flat


def test_file_and_commands_tell_every_setting_of_every_run(tmp_path: Path) -> None:
    write_run(
        tmp_path / "a", [], options={"tau": 6}, spec={"moments": "none", "blocks": "4", "run": "default"}
    )
    write_run(tmp_path / "b c", [], options={"exact": True}, spec={"lr": 1e-5}, seed=2, model='a "model"')
    runs: list[Run] = find_runs([tmp_path])
    file = experiment_file(runs)
    for one in runs:
        made = command(one, runs)
        expected = {n: v for n, v in one.settings.items() if n not in ("run", "name")}
        assert asked(made, file) == expected
        assert shlex.split(made)[-2:] == ["--into", str(one.directory)]


def test_a_single_run_is_made_again_by_its_file_alone(tmp_path: Path) -> None:
    one = read_run(write_run(tmp_path / "a", [], options={"tau": 6}))
    assert command(one, [one]) == f"decad lab run experiment.toml --into {tmp_path / 'a'}"


def test_help_loads_neither_torch_nor_matplotlib() -> None:
    look = (
        "import sys; from click.testing import CliRunner; from decad.cli.main import cli; "
        "assert CliRunner().invoke(cli, ['lab', '--help']).exit_code == 0; "
        "print({'torch', 'numpy', 'matplotlib', 'pydantic', 'decad.lab'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
