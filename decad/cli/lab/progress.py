"""How far an experiment is."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from decad.lab.run import Moment
    from decad.lab.sweep import State

SHOWN_S = 2.0


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
        if not state.of:
            return
        left = "" if math.isnan(state.left_s) or not state.running else f", {_duration(state.left_s)} left"
        now = f"; now {', '.join(state.running)}" if state.running else ""
        self._show(f"{state.done} of {state.of} runs done{left}{now}", last=True)

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
