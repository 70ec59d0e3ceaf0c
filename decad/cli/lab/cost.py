"""`decad lab cost`."""

from __future__ import annotations

import json
from typing import Any

import click

from decad.cli.lab.extras import need
from decad.cli.options import PATH


@click.command()
@click.option("--model", type=PATH, required=True, help="Hugging Face directory.")
@click.option(
    "--methods",
    default="adamw,lora,badam,decad,decad-adapters,adapters-alone",
    show_default=True,
    help="Which, separated by commas.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="In which the model is held.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=4, show_default=True, help="Sequences of a step."
)
@click.option(
    "--seq-len", type=click.IntRange(min=2), default=128, show_default=True, help="Tokens of a sequence."
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Steps that the median is of.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Compute threads; 0: torch's choice.",
)
@click.option("--rank", type=click.IntRange(min=1), default=8, show_default=True, help="Of adapters.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def cost(as_json: bool, methods: str, **options: Any) -> None:
    """Seconds and memory of a step of each method on this machine, beside what a formula says.

    Each method runs in a process of its own. Weights, gradients and optimiser are counted from tensors; activations
    are what the process takes beyond them at its peak. The formula leaves activations out.
    """
    need("badam")
    from decad.cli.render import size
    from decad.lab import cost as costs

    setting = costs.Setting(**options)
    found = []
    for made in costs.measure(setting, [name.strip() for name in methods.split(",") if name.strip()]):
        click.echo(f"{made.method}: measured", err=True)
        found.append(made)
    said = costs.said(setting)
    if as_json:
        click.echo(json.dumps([{**made.plain(), "formula": said[made.method]} for made in found]))
        return
    click.echo(
        f"{'method':<14} {'trained':>13} {'step s':>7} {'weights':>10} {'gradients':>10} {'optimiser':>10} "
        f"{'activations':>11} {'peak':>10} {'formula':>10}"
    )
    for made in found:
        parts = " ".join(f"{size(part):>10}" for part in (made.weights, made.gradients, made.optimiser))
        click.echo(
            f"{made.method:<14} {made.trained:>13,} {made.step_s:>7.3f} {parts} {size(made.activations):>11} "
            f"{size(made.peak):>10} {size(said[made.method]):>10}"
        )
