from __future__ import annotations

from pathlib import Path

import pytest

from decad.errors import ConfigError
from decad.lab.experiment import load_experiment, read_experiment

TEXT = """
model = "models/m"
data = ["a.txt", "/far/b.txt"]
steps = 10
lr = 0.01
method = "gossip"
[options]
every = 6
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "e.toml").write_text(TEXT)
    return tmp_path / "e.toml"


def test_paths_are_relative_to_the_file(file: Path) -> None:
    made = read_experiment(file)
    assert (made.model, made.data) == (file.parent / "models/m", (file.parent / "a.txt", Path("/far/b.txt")))


def test_settings_win_over_the_file(file: Path) -> None:
    made = read_experiment(file, ["lr=0.02", "options.every=3", "names=x,y,z", "peers=3", "order=shuffled"])
    assert (made.spec.lr, made.options["every"], made.names, made.spec.order) == (
        0.02,
        3,
        ("x", "y", "z"),
        "shuffled",
    )


def test_edges_may_be_in_a_file_beside_it(file: Path) -> None:
    (file.parent / "edges").write_text("p0-p1\np1-p2  # a line\n")
    file.write_text(file.read_text().replace("lr = 0.01", 'lr = 0.01\noverlay = "edges:@edges"'))
    assert read_experiment(file).spec.overlay == "edges:p0-p1,p1-p2"


def test_what_is_kept_in_a_run_directory_is_read_again(file: Path, tmp_path: Path) -> None:
    made = read_experiment(file, ["seed=7"])
    (tmp_path / "config.json").write_text(made.model_dump_json())
    assert load_experiment(tmp_path) == made


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("speed=3", "there is no setting speed"),
        ("lr=fast", "lr is not accepted"),
        ("names=a,a,b,c", "names lists 3 different peers, and there are 4"),
        ("peers", "write KEY=VALUE"),
    ],
)
def test_mistakes_are_told(file: Path, setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_experiment(file, [setting])
