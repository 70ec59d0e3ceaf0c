"""Overlays and numbers of peers side by side: time of a round, and until a disagreement halves; tables and a figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from decad.core.overlay import graph, parse_overlay
from decad.errors import ConfigError
from decad.lab.distributions import Distribution
from decad.lab.fluid import simulate
from decad.lab.network import Load, Outcome, join

MOST_EDGES = 1_000_000
"""Each in both directions: a step of so many messages takes minutes."""
TICKS = {
    **{
        "1 s": 1.0,
        "10 s": 10.0,
        "1 min": 60.0,
        "2 min": 120.0,
        "5 min": 300.0,
        "15 min": 900.0,
        "1 h": 3600.0,
    },
    **{
        "2 h": 7200.0,
        "6 h": 21_600.0,
        "1 d": 86_400.0,
        "1 week": 604_800.0,
        "1 month": 2.6e6,
        "1 year": 3.2e7,
    },
}
"""Round times on a logarithmic axis, in seconds."""
MARKERS = "osD^vPX"


@dataclass(frozen=True)
class Conditions:
    """What all the cases have in common."""

    load: Load
    blocks: int
    compute: Distribution
    """Seconds."""
    uplink: Distribution
    """Bytes a second."""
    downlink: Distribution
    """Bytes a second."""
    latency: Distribution
    """Seconds, of an edge."""
    steps: int
    learning: int
    seed: int


class Case(NamedTuple):
    """One overlay among so many peers, and what came of it."""

    overlay: str
    peers: int
    steps_per_round: int
    outcome: Outcome

    @property
    def step_s(self) -> float:
        """Median over the peers."""
        return float(np.median(self.outcome.step_s))

    @property
    def round_s(self) -> float:
        """Median over the peers."""
        return self.step_s * self.steps_per_round

    @property
    def halving_s(self) -> float:
        """Seconds until the distance between the peers' copies of the active block halves, if nobody trained."""
        return self.outcome.halving_steps * self.step_s

    def plain(self) -> dict[str, Any]:
        """For JSON; null for what never happens."""
        outcome = self.outcome
        slow = float(np.quantile(outcome.step_s, 0.9))
        halving = {"steps": outcome.halving_steps, "seconds": self.halving_s}
        return {
            "overlay": self.overlay,
            "peers": self.peers,
            "step_s": {"median": self.step_s, "p90": slow},
            "round_s": {"median": self.round_s, "p90": slow * self.steps_per_round},
            "parts_s": {
                "compute": outcome.compute_s,
                "waiting": outcome.waiting_s,
                "network": outcome.network_s,
            },
            "bytes_sent_a_step": {
                "mean": float(outcome.bytes_sent.mean()),
                "most": float(outcome.bytes_sent.max()),
            },
            "steps_complete": outcome.complete,
            "edges_mixed": outcome.mixed,
            "contraction": outcome.contraction,
            "halving": {key: value if math.isfinite(value) else None for key, value in halving.items()},
        }


def compare(overlays: Sequence[str], peers: Sequence[int], conditions: Conditions) -> Iterator[Case]:
    """Simulate each overlay with each number of peers, the same peers for all. Raises ConfigError."""
    for overlay in overlays:
        try:
            kind = parse_overlay(overlay).kind
        except ConfigError as error:
            raise ConfigError(f"--overlay {overlay} is not known: {error}.") from None
        if kind == "edges":
            raise ConfigError(
                "--overlay edges:... names peers, and the peers that are simulated have no names."
            )
        if kind == "full" and (most := max(peers)) * (most - 1) > MOST_EDGES:
            raise ConfigError(
                f"--overlay full joins {most} peers by {most * (most - 1) // 2:,} edges, more than can be simulated in "
                "a sensible time. Ask for fewer --peers or for another overlay."
            )
    steps_per_round = conditions.blocks * conditions.load.inner_steps
    for count in peers:
        for overlay in overlays:
            yield Case(overlay, count, steps_per_round, _simulated(overlay, count, conditions))


def _simulated(overlay: str, count: int, conditions: Conditions) -> Outcome:
    chance = np.random.default_rng(conditions.seed)
    network = join(
        graph(overlay, [sha256(f"{conditions.seed}/{peer}".encode()).hexdigest() for peer in range(count)]),
        overlay,
        conditions.latency,
        chance,
        compute=conditions.compute.draw(count, np.random.default_rng([conditions.seed, 1])),
        uplink=conditions.uplink.draw(count, np.random.default_rng([conditions.seed, 2])),
        downlink=conditions.downlink.draw(count, np.random.default_rng([conditions.seed, 3])),
    )
    if min(network.uplink.min(), network.downlink.min(), network.compute.min()) <= 0:
        raise ConfigError("compute, uplink and downlink must be above 0 for every peer.")
    return simulate(network, conditions.load, conditions.steps, conditions.learning, chance)


HEAD = (
    *("overlay", "peers", "step s", "p90", "round", "compute s", "waiting s", "network s"),
    *("MB sent", "complete", "mixed", "contraction", "halves in"),
)


def table(cases: Sequence[Case]) -> str:
    """For people: one line a case; all but the round is of a step."""
    rows = [HEAD, *map(_row, cases)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        )
        for cells in rows
    )


def _row(case: Case) -> tuple[str, ...]:
    outcome, rest = case.outcome, 1 - case.outcome.contraction
    return (
        case.overlay,
        f"{case.peers}",
        f"{case.step_s:.2f}",
        f"{np.quantile(outcome.step_s, 0.9):.2f}",
        duration(case.round_s),
        f"{outcome.compute_s:.2f}",
        f"{outcome.waiting_s:.2f}",
        f"{outcome.network_s:.2f}",
        f"{outcome.bytes_sent.mean() / 1e6:.1f}",
        f"{outcome.complete:.0%}",
        f"{outcome.mixed:.0%}",
        f"{outcome.contraction:.4f}" if rest > 1e-3 else f"1 - {rest:.1e}",
        duration(case.halving_s),
    )


def duration(seconds: float) -> str:
    """For people: two digits that matter, in the unit that suits."""
    if not math.isfinite(seconds):
        return "never"
    for unit, length in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def draw(cases: Sequence[Case], target: Path) -> tuple[Path, Path]:
    """Write ``target``.png and .svg: time of a round, and until a disagreement halves, against the number of peers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    from decad.lab.canvas import COLOURS

    figure = Figure(figsize=(8.4, 3.7), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = ("A round (every block once)", "Until a disagreement has halved, by mixing alone")
    for axes, title, seconds in zip(panels, titles, (_round, _halving), strict=True):
        for place, overlay in enumerate(dict.fromkeys(case.overlay for case in cases)):
            points = [(case.peers, seconds(case)) for case in cases if case.overlay == overlay]
            shown = [(peers, value) for peers, value in points if math.isfinite(value)]
            if shown:
                axes.plot(
                    *zip(*shown, strict=True),
                    color=COLOURS[place % len(COLOURS)],
                    marker=MARKERS[place % len(MARKERS)],
                    markersize=4.5,
                    linewidth=1.6,
                    label=overlay,
                )
        axes.set_xscale("log")
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("peers", fontsize=9)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    rounds, halvings = panels
    rounds.set_ylim(bottom=0)
    rounds.set_ylabel("hours", fontsize=9)
    halvings.set_yscale("log")
    names = {seconds: name for name, seconds in TICKS.items()}
    halvings.yaxis.set_major_locator(FixedLocator(list(TICKS.values())))
    halvings.yaxis.set_major_formatter(FuncFormatter(lambda value, _: names.get(value, "")))
    halvings.yaxis.set_minor_locator(NullLocator())
    panels[0].legend(frameon=False, fontsize=9)
    files = target.with_suffix(".png"), target.with_suffix(".svg")
    for file in files:
        figure.savefig(file, dpi=160)
    return files


def _round(case: Case) -> float:
    return case.round_s / 3600


def _halving(case: Case) -> float:
    return case.halving_s
