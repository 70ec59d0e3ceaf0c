"""`decad lab`: experiments with many peers in one process."""

from __future__ import annotations

import click

from decad.cli.lab.cost import cost
from decad.cli.lab.fetch import fetch
from decad.cli.lab.network import network
from decad.cli.lab.reports import compare, report
from decad.cli.lab.runs import run, sweep


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


for command in (fetch, run, sweep, report, compare, cost, network):
    lab.add_command(command)
