"""`decad export` and `decad eval`, beside a running daemon and without one."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.daemon import Fleet, fleet
from support.nursery import Nursery
from support.tiny import make_tiny_llama
from transformers import AutoModelForCausalLM, AutoTokenizer

from decad.model.trainable import TrainableModel
from decad.state.checkpoint import open_checkpoint
from decad.state.weights import TrainedBlocks

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def trained(
    nursery: Nursery, tmp_path_factory: pytest.TempPathFactory, tiny: Path, texts: Path
) -> Iterator[Fleet]:
    """Peer a, trained alone for a while and stopped in mid-phase."""
    with fleet(nursery, tmp_path_factory.mktemp("trained"), tiny, texts) as peers:
        a = peers.start("a", "--lr", "3e-3", "--steps", "62", "--batch-size", "4")
        assert a.result().code == 0
        yield peers


def _load(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, local_files_only=True)


def test_the_exported_model_is_what_was_trained_and_answers_a_prompt(trained: Fleet, tmp_path: Path) -> None:
    state, out = trained["a"].state_dir, tmp_path / "out"
    done = trained.run("export", str(out), "--state-dir", str(state), "--model", str(trained.model))
    assert (done.code, done.err) == (0, "")
    assert done.out == f"Wrote {out}: the model of step 62. Load it with transformers' from_pretrained.\n"
    model, tokenizer = _load(out), AutoTokenizer.from_pretrained(out, local_files_only=True)
    exported = TrainableModel.load(out, torch.device("cpu"), torch.float32)
    with open_checkpoint(state) as checkpoint:
        assert checkpoint is not None
        assert checkpoint.active()  # within a phase
        trained_blocks = TrainedBlocks(checkpoint)
        assert len(trained_blocks) == len(exported.plan)
        for index, values in trained_blocks.items():
            assert torch.equal(exported.block(index), values)
    prompt = tokenizer("the quick brown", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert len(tokenizer.decode(answer[0])) > len("the quick brown")


def test_what_was_trained_is_better_than_the_base_model(trained: Fleet) -> None:
    text = ["--data", str(trained.texts / "a.txt"), "--seq-len", "32", "--json"]
    state = ["--model", str(trained.model), "--state-dir", str(trained["a"].state_dir)]
    base = trained.run("eval", *state, "--base", *text)
    named = trained.run("eval", "--model", str(trained.model), "--name", "a", *text)
    assert json.loads(named.out) == json.loads(base.out)
    tuned = trained.run("eval", *state, *text)
    assert (base.code, tuned.code) == (0, 0)
    before, after = json.loads(base.out), json.loads(tuned.out)
    assert (before["step"], after["step"]) == (None, 62)
    assert before["sequences"] == after["sequences"] > 0
    assert after["loss"] < before["loss"] - 0.5
    plain = trained.run("eval", "--model", str(trained.model), *text[:-1])
    assert re.fullmatch(
        r"base model: loss 5\.\d{4} nats a token over \d+ tokens of \d+ sequences\n", plain.out
    )


def test_what_eval_says_is_what_the_daemon_measured(trained: Fleet) -> None:
    measured = re.findall(r"step 62: held-out loss ([\d.]+)", trained["a"].log)[-1]
    options = ["--data", str(trained.texts / "a.txt"), "--seq-len", "32", "--batch-size", "4"]
    state = ["--model", str(trained.model), "--state-dir", str(trained["a"].state_dir)]
    done = trained.run("eval", *state, *options, "--batches", "1")
    assert done.out.startswith(f"fine-tuned model of step 62: loss {measured} ")


def test_refuses_to_write_over_something(trained: Fleet, tmp_path: Path) -> None:
    (tmp_path / "thing").write_text("precious", encoding="utf-8")
    state = ["--state-dir", str(trained["a"].state_dir), "--model", str(trained.model)]
    done = trained.run("export", str(tmp_path), *state)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"decad: {tmp_path} exists and is not empty. Choose another directory, or remove it first.\n"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["thing"]


def test_refuses_another_base_model(trained: Fleet, tmp_path: Path) -> None:
    other = make_tiny_llama(tmp_path / "other", seed=5)
    state = trained["a"].state_dir
    done = trained.run("export", str(tmp_path / "out"), "--state-dir", str(state), "--model", str(other))
    assert (done.code, done.out) == (6, "")
    assert done.err.startswith(f"decad: The checkpoint in {state} was trained from another base model than ")
    assert not (tmp_path / "out").exists()


def test_refuses_where_nothing_was_trained(trained: Fleet, tmp_path: Path) -> None:
    done = trained.run("export", "out", "--state-dir", str(tmp_path), "--model", str(trained.model))
    assert done.code == 6
    assert done.err.startswith(f"decad: There is no checkpoint in {tmp_path} yet: ")


def test_beside_a_running_daemon_the_step_of_now_is_exported(peers: Fleet, tmp_path: Path) -> None:
    a = peers.start("a", "--inner-steps", "100000")  # so that no phase ends and no checkpoint is written
    before = a.until_step(3).progress.step
    (peers.folder / "decad.toml").write_text(f'model = "{peers.model}"\nstate_dir = "a"\n', encoding="utf-8")
    done = peers.run("export", "out")
    assert done.code == 0, done.err
    step = int(re.search(r"the model of step (\d+)\.", done.out)[1])  # type: ignore[index]  # or it fails
    assert before <= step <= a.status().progress.step
    _load(peers.folder / "out")
    a.signal(signal.SIGTERM)
    assert a.result().code == 0


def test_beside_a_daemon_that_waits_the_checkpoint_is_exported(peers: Fleet) -> None:
    assert peers.start("a", "--steps", "6").result().code == 0
    a = peers.start("a", "--min-peers", "1")
    a.until(lambda reply: reply.activity == "waiting")
    done = peers.run("export", "out", "--state-dir", "a", "--model", str(peers.model))
    assert done.out.startswith("Wrote out: the model of step 6."), done.err
