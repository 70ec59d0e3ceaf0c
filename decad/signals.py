"""The signals that ask a peer to stop. A leaf: they are handled from a command's first moment on."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

INSISTING = (signal.SIGINT, signal.SIGTERM)
"""Whoever sends one of these again does not want to wait."""


def stopping_signals() -> tuple[signal.Signals, ...]:
    """Those upon which a peer saves, says goodbye and ends.

    With SIGHUP, which a terminal sends that closes, often more than once; but not where it is ignored, as under nohup.
    """
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN:
        return INSISTING
    return (*INSISTING, hangup)


def ends_with_terminal(environment: Mapping[str, str], stream: int) -> bool:
    """Whether this process is stopped when the window closes in which it was started.

    ``stream``: a file descriptor that is a terminal's if anything is. In tmux and screen nothing closes.
    """
    closing = set(stopping_signals()) - set(INSISTING)
    return bool(closing) and os.isatty(stream) and not {"TMUX", "STY"} & environment.keys()
