"""`decad lab`: experiments with many peers in one process."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from decad.lab.run import Moment

SHOWN_S = 2.0


@click.group()
def lab() -> None:
    """Compare ways of training together: many peers in one process, on the code that the daemon runs.

    \b
      decad lab run experiment.toml --into runs/first
      decad lab run experiment.toml --set method=gossip --set options.every=6 --into runs/gossip

    Needs the extra `lab`: pip install 'decad[lab]'.
    """


@lab.command()
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option(
    "--into", "directory", type=click.Path(path_type=Path), required=True, help="The run directory."
)
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
    if as_json:
        click.echo(json.dumps(result))
    elif result["diverged"] is not None:
        click.echo(f"Diverged at step {result['diverged']}. What there is is in {directory}.")
    else:
        click.echo(f"Done in {result['wall_s']:.0f} s. Everything is in {directory}.")


class Progress:
    """One line on a terminal, a line now and then in a log; on standard error."""

    def __init__(self, name: str) -> None:
        self._name, self._last, self._open = name, 0.0, False

    def tell(self, text: str) -> None:
        self._show(f"{self._name}: {text}", last=False)

    def stepped(self, moment: Moment) -> None:
        self._show(
            f"{self._name}: step {moment.step}/{moment.steps}, training loss {moment.loss:.3f}, averaged model "
            f"{moment.held_out:.4f}, {_duration(moment.left_s)} left",
            last=moment.step == moment.steps,
        )

    def end(self) -> None:
        if self._open:
            click.echo(err=True)

    def _show(self, text: str, last: bool) -> None:
        now, terminal = time.monotonic(), sys.stderr.isatty()
        if now - self._last < (SHOWN_S / 10 if terminal else SHOWN_S * 5) and not last:
            return
        self._last, self._open = now, terminal
        click.echo(f"\r\033[K{text}" if terminal else text, nl=not terminal, err=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )
