"""`decad lab network`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from decad.cli.lab.extras import need
from decad.cli.options import PATH
from decad.errors import ConfigError


@click.command()
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
@click.option("--figure", type=PATH, help="Write FIGURE.png and FIGURE.svg.")
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
    need("matplotlib", "scipy")
    from decad.config import MAX_PEERS
    from decad.lab import scaling
    from decad.lab.distributions import parse_distribution
    from decad.lab.network import Load

    try:
        counts = [int(part) for part in peers.split(",")]
    except ValueError:
        raise ConfigError(f"--peers {peers} is not a list of numbers, such as 8,64,512.") from None
    if min(counts) < 2 or max(counts) > MAX_PEERS:
        raise ConfigError(f"--peers {peers}: from 2 to {MAX_PEERS:,} can be simulated.")
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
