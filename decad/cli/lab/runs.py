"""`decad lab run` and `sweep`: experiments."""

from __future__ import annotations

import json
from pathlib import Path

import click

from decad.cli.lab.extras import REPORTS, missing
from decad.cli.lab.progress import Progress
from decad.cli.options import PATH


@click.command()
@click.argument("experiment", type=PATH)
@click.option("--into", "directory", type=PATH, required=True, help="The run directory.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Wins over the file; may be repeated."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def run(experiment: Path, directory: Path, settings: tuple[str, ...], as_json: bool) -> None:
    """Run EXPERIMENT, a TOML file, with one method and one seed.

    \b
      model = "models/byte-lm"            # Hugging Face directory
      data = ["text/bible", "text/devil"] # a domain each
      partition = "domain"                # domain, dirichlet:ALPHA, quantity:ALPHA, iid
      peers = 4
      overlay = "ring"
      steps = 240
      method = "deca"                     # gossip, dec-lora, fedavg, local, pooled, badam
      moments = "rowwise"
      lr = 0.01

    Every setting that all peers of a run share is one here too (decad start --help). The run directory gets the
    settings, every evaluation as a line of JSON, and the result.
    """
    from decad.lab.experiment import read_experiment
    from decad.lab.run import run as run_experiment

    asked = read_experiment(experiment, settings)
    show = Progress(asked.name or asked.method)
    result = run_experiment(asked, directory, show.tell, show.stepped)
    show.end()
    if not missing(*REPORTS):
        from decad.lab.report import report as tell_of
        from decad.lab.runs import read_run

        tell_of(read_run(directory))
    if as_json:
        click.echo(json.dumps(result))
    elif result["diverged"] is not None:
        click.echo(f"Diverged at step {result['diverged']}. What there is is in {directory}.")
    else:
        click.echo(f"Done in {result['wall_s']:.0f} s. Everything is in {directory}.")


@click.command()
@click.argument("plan", type=PATH)
@click.option("--into", type=PATH, required=True, help="Directory of the run directories.")
@click.option("--only", multiple=True, metavar="VARIANT", help="Run this variant alone; may be repeated.")
@click.option(
    "--jobs", type=click.IntRange(min=0), default=0, help="Runs at once; 0: one a processor.  [default: 0]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the best rates as JSON.")
def sweep(plan: Path, into: Path, only: tuple[str, ...], jobs: int, as_json: bool) -> None:
    """Run every variant of PLAN at its own best learning rate, over several seeds.

    PLAN is an experiment's TOML file with some more in it:

    \b
      lr = [0.003, 0.01, 0.03]      # the grid, gone through with seed 0
      seeds = [1, 2, 3]             # then these, at each variant's best rate
      [[variants]]
      name = "deca rowwise"
      method = "deca"
      [[variants]]
      name = "gossip every 6th"
      method = "gossip"
      options = { every = 6 }
      lr = [0.001, 0.003]           # a grid of its own

    Runs that have finished are not run again, so an interrupted sweep goes on where it was. Then compare:
    decad lab compare INTO/seeds --into comparison
    """
    from decad.lab import sweep as sweeps

    show = Progress("sweep")
    best = sweeps.sweep(sweeps.read_plan(plan, only), into, jobs, show.swept)
    show.end()
    if as_json:
        click.echo(json.dumps(best))
    else:
        for name, rate in best.items():
            click.echo(f"{name}: best at lr {rate:g}")
