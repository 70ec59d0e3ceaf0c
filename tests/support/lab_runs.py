"""Run directories of the laboratory, made up: curves that look like those of real runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MEMORY = {"weights": 540e6, "gradients": 28e6, "optimiser": 43e6, "exchange": 14e6}


def evaluation(
    step: int, loss: float = 2.0, *, sent: float = 0.0, compute: float = 0.0, **changes: Any
) -> dict[str, Any]:
    """A line of metrics.jsonl in which all models are alike, but for ``changes``."""
    score = {"loss": loss, "accuracy": None}
    plain = {
        "step": step,
        "bytes_sent": sent,
        "compute_s": compute,
        "wall_s": 2 * compute,
        "averaged": score,
        "peers": [score, score],
        "consensus_distance": 0.1,
    }
    return {**plain, **changes}


def write_run(
    directory: Path,
    evaluations: Sequence[Mapping[str, Any]],
    *,
    finished: bool = True,
    diverged: int | None = None,
    memory: Mapping[str, float] = MEMORY,
    **settings: Any,
) -> Path:
    """``settings``: the experiment's and, under ``spec`` and ``options``, the run's and the method's."""
    directory.mkdir(parents=True)
    config = {
        "name": "",
        "method": "deca",
        "options": {},
        "model": "model",
        "data": ["texts"],
        "partition": "domain",
        "peers": 2,
        "steps": 400,
        "seed": 0,
        **settings,
    }
    spec = {"lr": 0.01, "moments": "rowwise", "overlay": "ring", **settings.get("spec", {})}
    (directory / "config.json").write_text(json.dumps({**config, "spec": {**spec, "seed": config["seed"]}}))
    lines = "".join(json.dumps(line) + "\n" for line in evaluations)
    (directory / "metrics.jsonl").write_text(lines if finished else lines + '{"step": 4')
    if finished:
        result = {
            "finished": True,
            "diverged": diverged,
            "memory": memory,
            "wall_s": 100.0,
            "decad": "0.1.0",
            "machine": "2 cores, 8 GiB",
        }
        (directory / "result.json").write_text(json.dumps(result))
    return directory


def plausible(
    directory: Path,
    *,
    end: float,
    seed: int = 0,
    steps: int = 400,
    until: int | None = None,
    peers: int = 8,
    step_bytes: float = 3e6,
    step_s: float = 0.05,
    apart: float = 0.01,
    distance: float = 0.3,
    classes: int = 0,
    growing: float = 0.0,
    **settings: Any,
) -> Path:
    """A run whose averaged model falls from 2.37 to about ``end``; ``apart``: how much worse a peer's own is.

    ``until``: the step at which it was interrupted. ``classes``: of a classifier. ``growing``: it diverges so fast.
    """
    rng = np.random.default_rng(seed)
    start, offsets = 2.374, np.abs(rng.normal(1, 0.5, peers))
    end += rng.normal(0, 0.004)
    step_s *= 1 + rng.normal(0, 0.05)
    lines = []
    for step in range(0, (until or steps) + 1, 20):
        share = step / steps
        loss = end + (start - end) * math.exp(-4.5 * share) + rng.normal(0, 0.003) + growing * share**3
        own = loss + apart * offsets * min(1.0, 5 * share)

        def score(value: float) -> dict[str, float | None]:
            right = 1 / classes + (1 - 1 / classes) * (start - value) / start if classes else None
            return {"loss": value, "accuracy": right}

        lines.append(
            evaluation(
                step,
                sent=step_bytes * step,
                compute=step_s * step,
                averaged=score(loss),
                peers=[score(value) for value in own],
                consensus_distance=distance * math.sqrt(share) * (1 + 0.1 * rng.normal()) if step else 0.0,
            )
        )
    return write_run(
        directory, lines, finished=until is None, peers=peers, steps=steps, seed=seed, **settings
    )


def campaign(root: Path, *, classes: int = 0) -> Path:
    """Every method with three seeds, the last of one of them interrupted; beside them one that diverges."""
    methods: tuple[tuple[str, dict[str, Any]], ...] = (
        ("deca", {"end": 2.034, "distance": 0.19, "spec": {"moments": "rowwise"}}),
        ("deca", {"end": 2.026, "distance": 0.32, "step_bytes": 9e6, "spec": {"moments": "gossip"}}),
        ("deca", {"end": 2.062, "distance": 0.57, "apart": 0.02, "spec": {"moments": "none"}}),
        ("gossip", {"end": 1.984, "distance": 0.4, "step_s": 0.1, "options": {"tau": 6}}),
        (
            "gossip",
            {"end": 1.919, "distance": 0.2, "step_bytes": 18e6, "step_s": 0.1, "options": {"tau": 1}},
        ),
        (
            "dec-lora",
            {"end": 2.15, "distance": 0.02, "step_bytes": 0.3e6, "step_s": 0.08, "options": {"r": 8}},
        ),
        ("fedavg", {"end": 2.0, "distance": 0.0, "step_bytes": 3e6, "step_s": 0.1}),
        ("local", {"end": 2.207, "distance": 6.2, "apart": 0.15, "step_bytes": 0.0, "step_s": 0.1}),
        ("pooled", {"end": 1.88, "distance": 0.0, "step_bytes": 0.0, "apart": 0.0, "peers": 1}),
    )
    for place, (method, settings) in enumerate(methods):
        for seed in range(3):
            until = 220 if (method, seed) == ("fedavg", 2) else None
            memory = {**MEMORY, "optimiser": 43e6 if method == "deca" else 1.07e9}
            plausible(
                root / f"{place}-{method}-{seed}",
                seed=seed,
                until=until,
                method=method,
                classes=classes,
                memory=memory,
                **settings,
            )
    plausible(
        root / "diverges",
        end=2.1,
        growing=9.0,
        until=300,
        method="deca",
        classes=classes,
        spec={"moments": "rowwise", "lr": 0.05},
    )
    return root
