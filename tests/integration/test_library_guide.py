"""docs/how-to/library.md: its programs run as they stand, each in a process and a directory of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.tiny import make_tiny_llama
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
HUGGING_FACE, OWN, ALONE = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs/how-to/library.md").read_text(encoding="utf-8"), re.M | re.S
)
PATIENCE_S = 90


def output(program: str, folder: Path) -> list[str]:
    """The lines that ``program`` prints, run in ``folder``."""
    path = folder / "program.py"
    path.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def losses(lines: list[str]) -> list[float]:
    return [float(found[1]) for line in lines if (found := re.search(r"loss (\d+\.\d+)", line))]


@pytest.mark.timeout(PATIENCE_S + 30)
def test_a_peer_on_a_hugging_face_model(tmp_path: Path) -> None:
    make_tiny_llama(tmp_path / "model")
    (tmp_path / "notes.txt").write_text("all work and no play makes jack a dull boy\n" * 40)
    lines = output(HUGGING_FACE, tmp_path)
    assert [line.partition(":")[0] for line in lines] == [f"step {step}" for step in range(8)]
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned").state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.timeout(PATIENCE_S + 30)
def test_a_model_and_a_loss_of_ones_own(tmp_path: Path) -> None:
    told = losses(output(OWN, tmp_path))
    # The one in the middle sees a third of the function; what it is bad at, it has from the others.
    assert told[-1] < told[0] / 4
    assert len(load_file(tmp_path / "sine.safetensors")) == 6


@pytest.mark.timeout(PATIENCE_S + 30)
def test_block_adam_alone(tmp_path: Path) -> None:
    told = losses(output(ALONE, tmp_path))
    assert told[-1] < told[0] / 5
