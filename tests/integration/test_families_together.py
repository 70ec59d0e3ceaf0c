"""Three daemons each on a classifier and on a mixture of experts; other tests have them train a Llama."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from support.daemon import Daemon, Fleet
from support.families import save_tiny
from support.swarm import PACED
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from decad.state.checkpoint import open_checkpoint
from decad.state.weights import TrainedBlocks

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Texts of vowels and of consonants; a and b know one kind each, c both."""
    folder, draw = tmp_path / "labelled", random.Random(1)
    folder.mkdir()

    def rows(kind: str, count: int) -> list[str]:
        letters = {"vowels": "aeiou", "consonants": "bcdfg"}[kind]
        return [
            json.dumps({"text": "".join(draw.choices(letters, k=12)), "label": kind}) for _ in range(count)
        ]

    some = {
        "a": rows("vowels", 40),
        "b": rows("consonants", 40),
        "c": rows("vowels", 20) + rows("consonants", 20),
    }
    some["test"] = rows("vowels", 20) + rows("consonants", 20)
    for name, lines in some.items():
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def _start_three(peers: Fleet, model: Path, data: Path, suffix: str, *options: str) -> list[Daemon]:
    started: list[Daemon] = []
    for name in "abc":
        known = ("--peers", started[0].address) if started else ()
        here = ("--model", str(model), "--data", str(data / f"{name}{suffix}"), "--min-peers", "2")
        # Steps of a few milliseconds would make a moment's stall of one peer the better part of its run.
        started.append(peers.start(name, *here, *options, *known, before=PACED.format(pace=0.05)))
    assert [daemon.result().code for daemon in started] == [0, 0, 0]
    return started


def _trained(daemon: Daemon) -> torch.Tensor:
    with open_checkpoint(daemon.state_dir) as checkpoint:
        assert checkpoint is not None
        blocks = TrainedBlocks(checkpoint)
        return torch.cat([blocks[index] for index in blocks])


def _report(peers: Fleet, *arguments: str) -> dict[str, Any]:
    result = peers.run("eval", "--json", *arguments)
    assert result.code == 0, result.err
    report: dict[str, Any] = json.loads(result.out)
    return report


def test_a_classifier(peers: Fleet, labelled: Path, tmp_path: Path) -> None:
    model = save_tiny("bert", tmp_path / "bert")
    classes = ("--labels", "vowels,consonants")
    trio = _start_three(peers, model, labelled, ".jsonl", *classes, "--steps", "96", "--lr", "5e-3")
    first, *others = map(_trained, trio)
    # Alone, a and b would each learn to say one class always.
    assert all((other - first).norm() < 0.05 * first.norm() for other in others)
    test = ("--model", str(model), "--data", str(labelled / "test.jsonl"), "--held-out", "0.9")
    before = _report(peers, *test, *classes)
    after = _report(peers, *test, "--state-dir", str(trio[0].state_dir))
    assert after["accuracy"] > max(0.9, before["accuracy"])
    assert after["loss"] < before["loss"]
    exported = peers.run("export", "out", "--model", str(model), "--state-dir", str(trio[1].state_dir))
    assert exported.code == 0, exported.err
    loaded = AutoModelForSequenceClassification.from_pretrained(peers.folder / "out")
    assert loaded.config.id2label == {0: "vowels", 1: "consonants"}


def test_a_mixture_of_experts(peers: Fleet, tmp_path: Path) -> None:
    model = save_tiny("mixtral", tmp_path / "mixtral")
    trio = _start_three(peers, model, peers.texts, ".txt", "--steps", "32", "--lr", "3e-3")
    first, *others = map(_trained, trio)
    assert all((other - first).norm() < 0.05 * first.norm() for other in others)
    test = ("--model", str(model), "--data", str(peers.texts / "c.txt"), "--seq-len", "32")
    after = _report(peers, *test, "--state-dir", str(trio[0].state_dir))
    assert after["loss"] < _report(peers, *test)["loss"] - 0.05
    exported = peers.run("export", "out", "--model", str(model), "--state-dir", str(trio[0].state_dir))
    assert exported.code == 0, exported.err
    AutoModelForCausalLM.from_pretrained(peers.folder / "out")


def test_a_model_that_is_divided_in_another_way_is_refused_with_the_flags_to_give(peers: Fleet) -> None:
    a = peers.start("a", "--blocks", "2")
    b = peers.start("b", "--peers", a.address, "--blocks", "sublayers")
    ended = b.result()
    assert ended.code == 8
    assert "blocks is sublayers here and 2 there" in ended.err
    assert "start both with the same --task, --labels, --blocks and --freeze" in ended.err


def test_a_returning_peer_divides_its_model_as_before(peers: Fleet) -> None:
    first = peers.start("a", "--blocks", "2", "--steps", "8").result()
    assert "2 blocks" in first.err
    again = peers.start("a", "--steps", "16").result()
    assert (again.code, "continuing at step 8" in again.err, "2 blocks" in again.err) == (0, True, True)
