"""`decad lab report` and `compare`: what experiments say."""

from __future__ import annotations

import json
from pathlib import Path

import click

from decad.cli.lab.extras import REPORTS, need
from decad.cli.options import PATH


@click.command()
@click.argument("directory", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print the last evaluation as JSON, and write nothing.")
def report(directory: Path, as_json: bool) -> None:
    """Tell of the run in DIRECTORY: report.md, report.html and the figures are written beside what it left.

    Held-out loss (of a classifier, accuracy too) of the averaged model, of the peers' own models and of the worst
    peer, along steps, bytes and compute; consensus distance; memory; every setting; and the commands that run it
    again. report.html is one file that needs nothing else. An interrupted run is told as such.
    """
    need(*REPORTS)
    from decad.lab import report as made
    from decad.lab.runs import read_run

    run = read_run(directory)
    if as_json:
        click.echo(json.dumps(made.plain(run), indent=2, allow_nan=False))
        return
    made.report(run)
    click.echo(made.state_text(run).replace("**", ""))
    click.echo(f"Wrote {directory / 'report.md'}, {directory / 'report.html'} and the figures.")


@click.command()
@click.argument("directories", nargs=-1, required=True, metavar="DIR...", type=PATH)
@click.option("--into", type=PATH, help="Write report.md, report.html and figures here.")
@click.option("--title", default="Comparison", show_default=True, help="Of the report.")
@click.option("--steps", type=float, help="Compare at so many inner steps.")
@click.option("--megabytes", type=float, help="Compare at so many MB sent by a peer.")
@click.option("--seconds", type=float, help="Compare at so many CPU seconds of a peer.")
@click.option("--json", "as_json", is_flag=True, help="Print the tables as JSON.")
def compare(
    directories: tuple[Path, ...],
    into: Path | None,
    title: str,
    steps: float | None,
    megabytes: float | None,
    seconds: float | None,
    as_json: bool,
) -> None:
    """Set runs side by side: at equal steps, at equal bytes sent, and at equal compute.

    Each DIR is a run directory, or holds some at any depth. Runs that differ in their seed alone are one line, with
    mean and standard deviation. Lines are named by the method and by those settings that differ.

    \b
      decad lab compare runs --into comparison         tables here, report and figures there
      decad lab compare runs --megabytes 120           after 120 MB instead
      decad lab compare runs --json                    for machines

    What is compared at is, unless you say, what DECA's runs spend in all (the first of its settings; without
    DECA, the first method). Nothing is extrapolated: what ended before is "not reached".
    """
    need(*REPORTS)
    from decad.lab.compare import Comparison, typed
    from decad.lab.runs import find_runs

    asked = {"steps": steps, "bytes": megabytes, "compute": seconds}
    chosen = {name: budget for name, budget in asked.items() if budget is not None}
    made = Comparison(find_runs(directories), chosen)
    if into is not None:
        made.write(into, title, typed(directories, into, chosen))
    click.echo(json.dumps(made.plain(), indent=2, allow_nan=False) if as_json else made.tables())
    if into is not None and not as_json:
        click.echo(f"\nWrote {into / 'report.md'}, {into / 'report.html'} and the figures.")
