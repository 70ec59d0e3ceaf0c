"""What a member can tell of another's records by a published attack: `make inference`, for docs/security.md.

Membership inference by loss (Yeom, Giacomelli, Fredrikson and Jha, arXiv 1709.01604): of a record that the attacker
has, was it among those that a peer trained on? It guesses yes where the fine-tuned model's loss is low, as compared
with the base model's (Carlini et al., arXiv 2112.03570, call this calibration). Four peers, each with 40 kB of text of
its own, half of it trained on. AUC: 0.5 is a guess, 1 is certainty.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import torch

from decad.core.privacy import epsilon
from decad.lab.engine import Laboratory
from decad.lab.experiment import make_experiment
from decad.model.trainable import TrainableModel

DOMAINS = ("devil", "jargon", "wordnet", "python")
BYTES = 40_000
SAMPLED = 300
RATE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", type=Path, default=Path(".lab"))
    args = parser.parse_args()
    folder = args.lab / "inference"
    folder.mkdir(exist_ok=True)
    files = []
    for name in DOMAINS:
        text = (args.lab / "domains" / f"{name}.txt").read_bytes()[:BYTES].decode("utf-8", "ignore")
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        files.append(folder / f"{name}.txt")
    print("epochs  noise  epsilon  held-out loss  AUC averaged model  AUC the peer's own")
    for epochs, noise in ((1, 0.0), (3, 0.0), (10, 0.0), (3, 0.5), (3, 1.0), (3, 2.0)):
        row(args.lab, files, epochs, noise)


def row(lab: Path, files: list[Path], epochs: int, noise: float) -> None:
    """One run, and the attack on it."""
    steps = epochs * 78
    settings: dict[str, Any] = {
        **{"model": lab / "byte-lm-bible", "data": files, "peers": 4, "overlay": "full", "steps": steps},
        **{"seq_len": 64, "batch_size": 4, "inner_steps": 20, "lr": RATE, "schedule": f"linear:{steps}"},
        **{"held_out": 0.5},
        **{"eval_every": steps, "threads": 1, "dp_noise": noise, "dp_clip": 0.5},
    }
    laboratory = Laboratory(make_experiment(settings))
    peer = laboratory.peers[0]
    draw = random.Random(0)
    seen = draw.sample(list(peer.data.train_units), SAMPLED)
    unseen = draw.sample(list(peer.data.held_out_units), SAMPLED)
    before = [losses(laboratory, peer.model, units) for units in (seen, unseen)]
    for step in range(steps):
        laboratory.step(step)
    evaluation = laboratory.evaluate()
    aucs = []
    for model in (laboratory.averaged, peer.model):
        gained = [
            [was - now for was, now in zip(base, losses(laboratory, model, units), strict=True)]
            for base, units in zip(before, (seen, unseen), strict=True)
        ]
        aucs.append(auc(*gained))
    spent = f"{epsilon(noise, epochs):7.1f}" if noise else "      -"
    loss = evaluation.averaged.mean
    print(f"{epochs:6}  {noise:5}  {spent}  {loss:13.3f}  {aucs[0]:18.3f}  {aucs[1]:18.3f}", flush=True)


def losses(laboratory: Laboratory, model: TrainableModel, units: list[int]) -> list[float]:
    """Of each unit, nats a byte."""
    return [model.evaluate(laboratory.pool.batch(torch.tensor([int(unit)]))).mean for unit in units]


def auc(members: list[float], others: list[float]) -> float:
    """How often a record that was trained on gained more than one that was not."""
    wins = sum((one > other) + 0.5 * (one == other) for one in members for other in others)
    return wins / (len(members) * len(others))


if __name__ == "__main__":
    main()
