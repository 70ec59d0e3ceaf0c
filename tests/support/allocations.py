"""Every allocation that torch makes on the host during a piece of work, kernels' and custom operators' included."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

# The profiler's library reads it when torch is loaded, and would report every start and stop on the standard output.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")

from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Peak:
    """Most bytes alive at once above those alive before; of each kind by itself, and what was left at the end."""

    named: int
    other: int
    total: int
    left: int


def allocations(work: Callable[[], object]) -> list[int]:
    """Bytes of each allocation (positive) and release (negative) while ``work`` runs, in order."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = work()  # alive until recording ends, as it would be in the caller's hands
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    del result
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def peak(changes: Iterable[int], named_sizes: Collection[int]) -> Peak:
    """Follow ``changes``; allocations whose size in bytes is in ``named_sizes`` are counted apart."""
    named = other = top_named = top_other = top = 0
    for change in changes:
        if abs(change) in named_sizes:
            named += change
        else:
            other += change
        top_named, top_other, top = max(top_named, named), max(top_other, other), max(top, named + other)
    return Peak(top_named, top_other, top, named + other)
