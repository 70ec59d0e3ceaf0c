"""What happens to a peer, for the program that it runs in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Listening:
    """Other peers can reach this one from now on."""

    address: str
    """host:port, as their ``peers`` take it."""


@dataclass(frozen=True)
class PhaseBegun:
    """Another block is trained from now on."""

    step: int
    """The next one to be taken."""
    round: int
    block: int
    name: str
    """Of the block."""


@dataclass(frozen=True)
class StepTaken:
    """A step is complete: trained and mixed."""

    step: int
    """Its number, from 0."""
    loss: float
    """Mean training loss of this peer's batch, before the step; NaN where nothing was trained."""
    mixed_with: tuple[str, ...]
    """Neighbours, by name, whose block was mixed."""
    missing: tuple[str, ...]
    """Neighbours whose block was not, or only in part."""


@dataclass(frozen=True)
class Evaluated:
    """The held-out data was looked at."""

    step: int
    """Steps taken before."""
    loss: float
    """Mean over the predictions."""
    accuracy: float | None
    """Share of the classes that were right; None where the loss is not one of classes."""


@dataclass(frozen=True)
class Noticed:
    """Something went wrong and was survived."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The training is over, and saved; the peer leaves."""

    step: int
    """Steps that the run has taken."""
    stopped: bool
    """Whether it was told to, before its last step."""


Event = Listening | PhaseBegun | StepTaken | Evaluated | Noticed | Finished

Listener = Callable[[Event], None]
"""Called in the event loop between two turns of it: to be quick, and not to raise."""


def nobody(event: Event) -> None:
    """The listener of a peer that nobody listens to."""
