"""What the demo's table is made of: each model's loss on text that no peer trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from decad.config import RunSpec
from decad.core.batch import Batch, Score
from decad.data.local import load_data
from decad.model.trainable import TrainableModel
from decad.state.checkpoint import open_checkpoint
from decad.state.weights import TrainedBlocks

BATCH = 4


class Examiner:
    """Measures models on the test text of every domain, ``sequences`` of ``seq_len`` tokens each."""

    def __init__(self, base: Path, tests: Mapping[str, Path], seq_len: int, sequences: int) -> None:
        self._directory = base
        self._load(RunSpec())
        self._batches: dict[str, list[Batch]] = {}
        for domain, path in tests.items():
            # A share just below one leaves a single sequence aside: the rest is what we want to see.
            data = load_data([path], self._model.tokenizer, "causal-lm", (), seq_len, 0.999, seed=0)
            self._batches[domain] = list(data.held_out_batches(BATCH, sequences // BATCH))

    def base(self) -> dict[str, float]:
        """Losses of the base model by domain, in nats a token."""
        return self._examine({})

    def peer(self, state_dir: Path) -> dict[str, float]:
        """Losses of the model in a peer's last checkpoint, by domain."""
        with open_checkpoint(state_dir) as checkpoint:
            if checkpoint is None:
                raise SystemExit(f"demo: {state_dir} holds no checkpoint")
            spec = RunSpec.from_saved(checkpoint.run.spec)
            if spec.adapters != self._model.spec.adapters:
                self._load(spec)
            return self._examine(TrainedBlocks(checkpoint))

    def _load(self, spec: RunSpec) -> None:
        self._model = TrainableModel.load(self._directory, torch.device("cpu"), torch.float32, spec)
        self._base = [self._model.block(block.index) for block in self._model.blocks]

    def _examine(self, trained: Mapping[int, Tensor]) -> dict[str, float]:
        for index, values in enumerate(self._base):
            self._model.set_block(index, trained.get(index, values))
        return {
            domain: reduce(Score.plus, map(self._model.evaluate, batches)).mean
            for domain, batches in self._batches.items()
        }


def mean_of(rows: Sequence[Mapping[str, float]]) -> float:
    """The mean over models of their mean over domains."""
    return fmean(fmean(row.values()) for row in rows)


def on_own_domain(
    base: Mapping[str, float],
    alone: Mapping[str, Mapping[str, float]],
    together: Mapping[str, Mapping[str, float]],
    adapted: Mapping[str, Mapping[str, float]],
    own: Mapping[str, str],
) -> str:
    """A line for each peer (``own``: name -> domain): its loss there before, alone, and together without adapters and
    with them, and what joining did to the last."""
    lines = []
    for name, domain in own.items():
        gain = alone[name][domain] - adapted[name][domain]
        verdict = f"joining bought {gain:.3f}" if gain > 0 else f"joining cost {-gain:.3f}"
        lines.append(
            f"{name}: base {base[domain]:.3f}, alone {alone[name][domain]:.3f}, together without adapters "
            f"{together[name][domain]:.3f}, together {adapted[name][domain]:.3f}: {verdict}."
        )
    return "\n".join(lines)


def table(rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Models down, domains across, the mean last."""
    domains = list(rows[0][1])
    width = max(len(label) for label, _ in rows)
    head = " " * width + "".join(f"{domain:>9}" for domain in [*domains, "mean"])
    body = [
        f"{label:<{width}}"
        + "".join(f"{row[domain]:9.3f}" for domain in domains)
        + f"{fmean(row.values()):9.3f}"
        for label, row in rows
    ]
    return "\n".join([head, *body])
