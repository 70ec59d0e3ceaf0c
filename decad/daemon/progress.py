"""What the trainer is doing, for everybody who wants to tell: the status, the log, the beacons."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import fmean

from decad.daemon.events import Listener, Noticed, nobody

log = logging.getLogger("decad")

SMOOTHED = 20
"""Steps over which loss and times are averaged."""
RISEN = 0.5
"""Nats by which a mean over so many steps does not rise by chance."""
A_RATE_THAT_FITS = (
    "`decad tune` finds a rate that fits. A run keeps the rate that it began with: begin another, with --lr, in "
    "another --state-dir."
)
NOTICES_KEPT = 50
STUCK_S = 120.0
"""A step that takes so long, and ten times as long as those before it, will not end."""
SLOW_S = 1800.0
"""Loading, joining, evaluating and saving a large model on a slow machine."""


class Activity(StrEnum):
    STARTING = "starting"
    WAITING = "waiting"
    JOINING = "joining"
    TRAINING = "training"
    SETTLING = "settling"
    EVALUATING = "evaluating"
    SAVING = "saving"
    STOPPING = "stopping"
    FINISHED = "finished"


@dataclass
class Progress:
    """Live figures; times in seconds."""

    tell: Listener = nobody
    """Of what changes them."""
    notices: Notices = field(init=False)
    activity: Activity = Activity.STARTING
    waiting_for: str = ""
    work: int = 0
    """Pieces of long work done: chunks fetched, batches evaluated."""
    step: int = 0
    steps_taken: int = 0
    steps_incomplete: int = 0
    steps_skipped: int = 0
    held_out_loss: float = math.nan
    held_out_step: int = 0
    first_held_out_loss: float = math.nan
    first_loss: float = math.nan
    """Mean training loss of the first steps here, nats; NaN until known."""
    epsilon: float = -1.0
    """Differential privacy of this machine's examples so far; negative without it."""
    learning_rate: float = 0.0
    tokens: int = 0
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=SMOOTHED))
    compute_times: deque[float] = field(default_factory=lambda: deque(maxlen=SMOOTHED))
    exchange_times: deque[float] = field(default_factory=lambda: deque(maxlen=SMOOTHED))
    step_tokens: deque[int] = field(default_factory=lambda: deque(maxlen=SMOOTHED))

    def __post_init__(self) -> None:
        self.notices = Notices(self.tell)

    def wait_for(self, text: str) -> None:
        """Say what is waited for."""
        self.waiting_for = text

    def notice(self, text: str) -> None:
        """Tell the operator of something that went wrong and was survived, in the log and the status."""
        if self.notices.add(text):
            log.warning(text)

    @property
    def pulse(self) -> tuple[object, ...]:
        """Changes while the daemon gets on."""
        return self.activity, self.step, self.waiting_for, self.held_out_step, self.work

    @property
    def patience_s(self) -> float:
        """How long `pulse` may stay the same before something must be wrong; for ever while others are waited for."""
        if self.activity in (Activity.WAITING, Activity.FINISHED):
            return math.inf
        if self.activity in (Activity.TRAINING, Activity.SETTLING) and self.step_s:
            return max(STUCK_S, 10 * self.step_s)
        return SLOW_S

    @property
    def loss(self) -> float:
        """Mean training loss of the last steps, in nats a token; NaN until known."""
        return fmean(self.losses) if self.losses else math.nan

    @property
    def compute_s(self) -> float:
        return fmean(self.compute_times) if self.compute_times else 0.0

    @property
    def exchange_s(self) -> float:
        return fmean(self.exchange_times) if self.exchange_times else 0.0

    @property
    def step_s(self) -> float:
        return self.compute_s + self.exchange_s

    @property
    def tokens_per_s(self) -> float:
        return fmean(self.step_tokens) / self.step_s if self.step_tokens and self.step_s else 0.0

    def trained(self, loss: float, tokens: int) -> None:
        """A batch was trained on."""
        self.losses.append(loss)
        self.step_tokens.append(tokens)
        if len(self.losses) < SMOOTHED:
            return
        if math.isnan(self.first_loss):
            self.first_loss = self.loss
        elif self.loss > self.first_loss + RISEN:
            self.notice(
                f"The training loss has risen by more than {RISEN:g} since the training began here: the learning rate "
                f"is too high, or the data is broken. {A_RATE_THAT_FITS}"
            )

    def stepped(self, compute_s: float, exchange_s: float, complete: bool) -> None:
        """A step is done."""
        self.steps_taken += 1
        self.steps_incomplete += not complete
        self.compute_times.append(compute_s)
        self.exchange_times.append(exchange_s)


class Notices:
    """What went wrong and was survived, newest last, and each text once: (monotonic time, text)."""

    def __init__(self, tell: Listener = nobody) -> None:
        self._tell = tell
        self.entries: deque[tuple[float, str]] = deque(maxlen=NOTICES_KEPT)

    def add(self, text: str) -> bool:
        """Keep a notice as the newest; False if it is there already."""
        older = [entry for entry in self.entries if entry[1] == text]
        for entry in older:
            self.entries.remove(entry)
        self.entries.append((time.monotonic(), text))
        if not older:
            self._tell(Noticed(text))
        return not older
