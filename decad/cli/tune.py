"""`decad tune`: which learning rate suits this model and this data."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from decad.cli.options import JSON, settings_options, tell

if TYPE_CHECKING:
    from decad.lab.tune import Tuning


@click.command()
@settings_options(
    *("--model", "--data", "--steps", "--task", "--labels", "--blocks", "--freeze", "--inner-steps"),
    *("--order", "--lr", "--schedule", "--warmup", "--adapters", "--adapter-lr", "--weight-decay"),
    *("--clip", "--beta1", "--beta2", "--eps", "--seq-len", "--batch-size", "--micro-batch"),
    *("--gradient-checkpointing", "--seed", "--device", "--dtype", "--threads"),
    *("--max-bad", "--held-out", "--eval-batches"),
)
@click.option(
    "--machines",
    type=click.IntRange(1, 256),
    default=4,
    show_default=True,
    help="That will train together: a step here takes as many times as long.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=300.0,
    show_default=True,
    help="About how long to try.",
)
@JSON
def tune(config: Path | None, machines: int, seconds: float, as_json: bool, **flags: Any) -> None:
    """Find the learning rate for this model, this data and a run of --steps, by short runs on this machine.

    \b
    decad tune --model DIR --data TEXT --steps 2000
    decad tune --model DIR --data TEXT --steps 2000 --adapters 8

    Many rates are tried with short runs from the base model, the best of them with longer ones, each with the run's
    own schedule shortened to its length. Prints the table and the lines for decad.toml. Nobody is met and
    nothing is kept.

    Settings come from where `decad start` takes them. --steps unset: what --schedule says, else 1000.
    """
    # These take their time to import.
    import torch

    from decad.daemon.device import choose_device
    from decad.lab.tune import Tuner
    from decad.settings import load_settings

    spec, peer = load_settings(flags, config, needed=("model", "data"))
    if peer.threads:
        torch.set_num_threads(peer.threads)
    with tempfile.TemporaryDirectory(prefix="decad-tune-") as folder:  # for the tokens of the data
        beside = peer.model_copy(update={"state_dir": Path(folder)})
        found = Tuner(spec, beside, choose_device(peer.device), machines, tell).tune(peer.steps, seconds)
    click.echo(_as_json(found) if as_json else _as_text(found))


def _as_json(found: Tuning) -> str:
    best = found.best
    trials = [
        {**trial._asdict(), "loss": trial.loss if math.isfinite(trial.loss) else None}
        for trial in found.trials
    ]
    return json.dumps(
        {
            "steps": found.wanted,
            "longest": found.longest,
            "base": found.base,
            "trials": trials,
            "best": {"lr": best.lr, "adapter_lr": best.adapter_lr, "loss": best.loss},
        },
        indent=2,
    )


def _as_text(found: Tuning) -> str:
    best, adapters = found.best, any(trial.adapter_lr for trial in found.trials)
    lengths = sorted({trial.steps for trial in found.trials})
    losses = {(trial.lr, trial.steps): trial.loss for trial in found.trials}
    rates = sorted({(trial.lr, trial.adapter_lr) for trial in found.trials})
    head = f"{'lr':<10}{'adapter_lr':<12}" if adapters else f"{'lr':<10}"
    lines = [head + "".join(f"{f'{steps} steps':>12}" for steps in lengths)]
    for lr, adapter_lr in rates:
        cells = [losses.get((lr, steps)) for steps in lengths]
        shown = ["" if c is None else f"{c:.4f}" if math.isfinite(c) else "diverged" for c in cells]
        row = f"{lr:<10g}{adapter_lr:<12g}" if adapters else f"{lr:<10g}"
        lines.append(row + "".join(f"{cell:>12}" for cell in shown) + ("  best" if lr == best.lr else ""))
    lines += ["", f"Held-out loss in nats; {found.base:.4f} before training."]
    if best.loss >= found.base:
        lines.append(
            "No rate made the model better on what is held out. Try more steps (--steps), or more data."
        )
    if found.longest < found.wanted:
        lines.append(
            f"The longest of these runs had {found.longest} of {found.wanted} steps, with the schedule shortened: with "
            "more --seconds they are longer, and the choice is safer."
        )
    lines += ["", "For decad.toml:", "", f"    lr = {best.lr:g}"]
    if adapters:
        lines.append(f"    adapter_lr = {best.adapter_lr:g}")
    return "\n".join(lines)
