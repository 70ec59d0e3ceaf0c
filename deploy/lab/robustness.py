"""What attackers do to a run, by mixing rule: `make robustness` prints the tables of docs/results.md.

Eight peers of small-lm-quick.toml for half its steps; one or two of them attack (decad/lab/attacks.py). The figures are
the held-out losses, on all peers' data, of the honest peers' averaged model and of the worst honest peer's.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from decad.lab.attacks import Kind
from decad.lab.experiment import from_file
from decad.lab.runs import read_run
from decad.lab.sweep import Plan, State, sweep

PLAN = Path(__file__).with_name("small-lm-quick.toml")
STEPS, RATE = 120, 0.02
RULES: dict[str, dict[str, Any]] = {
    "unchecked": {"options": {"checks": False}},
    "none": {},
    "clip": {"robust": "clip"},
    "median": {"robust": "median"},
    "trimmed": {"robust": "trimmed"},
}
"""``unchecked``: plain mixing, without what a daemon always does."""
ATTACKS: tuple[Kind, ...] = ("noise", "scale", "flip", "manipulate", "ascent", "frozen")
ATTACKERS = {1: ["p0"], 2: ["p0", "p3"]}
"""On the ring no honest peer has two of them beside it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=Path(".lab/results/robustness"))
    parser.add_argument("--jobs", type=int, default=0, help="runs at once; 0: one a processor")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    args = parser.parse_args()
    base = {key: value for key, value in from_file(PLAN).items() if key not in ("variants", "seeds")}
    base |= {"steps": STEPS, "schedule": f"linear:{STEPS}", "eval_every": STEPS, "moments": "rowwise"}
    variants = _variants()
    sweep(Plan(base, variants, args.seeds), args.into, args.jobs, _tell)
    found = {v["name"]: [_losses(args.into, v["name"], seed) for seed in args.seeds] for v in variants}
    print(
        f"\nheld-out loss in nats a byte: averaged model of the honest (worst honest peer); seeds {args.seeds}"
    )
    print(f"each alone: {_cell(found['alone'])}")
    for overlay in ("ring", "full"):
        print(f"\n| {overlay} | " + " | ".join(RULES) + " |\n|---|" + "---|" * len(RULES))
        for label, name in [("nobody attacks", f"{overlay}-nobody"), *_rows(overlay)]:
            print(f"| {label} | " + " | ".join(_cell(found[f"{name}-{rule}"]) for rule in RULES) + " |")


def _rows(overlay: str) -> list[tuple[str, str]]:
    return [(f"{attack}, {n} of 8", f"{overlay}-{attack}-{n}") for attack in ATTACKS for n in ATTACKERS]


def _variants() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [{"name": "alone", "method": "local", "lr": [0.003]}]
    for overlay in ("ring", "full"):
        for rule, settings in RULES.items():
            common = {"overlay": overlay, "lr": [RATE], **settings}
            made.append({"name": f"{overlay}-nobody-{rule}", **common})
            for attack in ATTACKS:
                for count, names in ATTACKERS.items():
                    name = f"{overlay}-{attack}-{count}-{rule}"
                    made.append({"name": name, "attack": attack, "attackers": names, **common})
    return made


def _losses(into: Path, name: str, seed: int) -> tuple[float, float]:
    (directory,) = (into / "seeds" / name).glob(f"lr-*-seed-{seed}")
    run = read_run(directory)
    if run.result is None or run.result.diverged is not None:
        return float("nan"), float("nan")
    last = run.evaluations[-1]
    return last.averaged.loss, max(peer.loss for peer in last.peers)


def _cell(losses: list[tuple[float, float]]) -> str:
    averaged, worst = (sum(column) / len(column) for column in zip(*losses, strict=True))
    return "diverged" if math.isnan(averaged) else f"{averaged:.3f} ({worst:.3f})"


def _tell(state: State) -> None:
    print(f"\r{state.done} of {state.of} runs, about {state.left_s / 60:.0f} min left  ", end="", flush=True)


if __name__ == "__main__":
    main()
