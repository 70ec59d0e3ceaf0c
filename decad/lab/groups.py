"""Runs that differ in their seed alone are one group, and a group has a label that tells it from the others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decad.lab.runs import Run

NOT_COMPARED = frozenset({"seed", "name", "run"})
"""The seed, and what people call a run."""
BLOCKWISE = frozenset({"deca", "badam", "local"})
READ_BY = {
    "moments": frozenset({"deca"}),
    "inner_steps": BLOCKWISE,
    "order": BLOCKWISE,
    "blocks": BLOCKWISE,
}
"""Settings that only these methods read: of another method they tell nothing."""
SAYS_ITSELF = frozenset({"moments", "order", "overlay", "encoding", "partition", "schedule", "dtype", "task"})
"""Settings whose values are understood without their names."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    label: str
    settings: Mapping[str, Any]
    runs: tuple[Run, ...]

    @property
    def method(self) -> str:
        return self.runs[0].method

    @property
    def finished(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.finished)


def group_runs(runs: Iterable[Run]) -> list[Group]:
    """In the order of their first runs. Labels differ, and name no more settings than they must."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(json.dumps(compared(run.settings), sort_keys=True), []).append(run)
    settings = [compared(members[0].settings) for members in found.values()]
    labels = _distinct([label(own, settings) for own in settings])
    return [Group(*parts) for parts in zip(labels, settings, map(tuple, found.values()), strict=True)]


def _distinct(labels: Sequence[str]) -> list[str]:
    """What is shortened for people, such as the path of a model, may have become the same."""
    return [
        f"{own} ({labels[: place + 1].count(own)})" if labels.count(own) > 1 else own
        for place, own in enumerate(labels)
    ]


def compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those that tell one group from another."""
    return {name: value for name, value in settings.items() if name not in NOT_COMPARED}


def label(own: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """Of the group with the settings ``own`` among ``others``: the method, and what differs, such as "deca lr 0.01"."""
    method = own["method"]
    alike = [settings for settings in others if settings["method"] == method]
    told = [
        name
        for name in own
        if name != "method"
        and (
            _differs(name, alike, missing=True)
            or (method in READ_BY.get(name, (method,)) and _differs(name, others, missing=False))
        )
    ]
    first = sorted(told, key=lambda name: name not in SAYS_ITSELF)
    return " ".join([str(method), *(_told(name, own[name]) for name in first)])


def differing(groups: Sequence[Group]) -> list[str]:
    """Settings that are not the same in all groups that have them, but for the method."""
    names = dict.fromkeys(name for group in groups for name in group.settings)
    every = [group.settings for group in groups]
    return [name for name in names if name != "method" and _differs(name, every, missing=True)]


def _differs(name: str, among: Sequence[Mapping[str, Any]], *, missing: bool) -> bool:
    values = {json.dumps(settings[name]) for settings in among if name in settings}
    return len(values) > 1 or (missing and 0 < sum(name in settings for settings in among) < len(among))


def _told(name: str, value: Any) -> str:
    if name in SAYS_ITSELF:
        return shown(value)
    words = name.removeprefix("options.").replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    if name in ("model", "data"):
        value = [Path(part).name for part in (value if isinstance(value, list) else [value])]
    return f"{words} {shown(value)}"


def shown(value: Any) -> str:
    """A setting's value for people."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ",".join(map(shown, value)) or "-"
    return str(value) or "-"
