"""Patterns that choose parameters by the components of their dotted paths, never by a part of a name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

_RANGE = re.compile(r"(\d+)-(\d+)")


def matches(pattern: str, name: str) -> bool:
    """Whether ``pattern`` chooses the parameter ``name``.

    It does if its components match the first components of the name: ``model.layers.1`` chooses all of layer 1 and
    nothing of layer 10. In a component, ``*`` and ``?`` stand for characters, as in a shell, and ``0-3`` for 0, 1,
    2 and 3. A leading ``**`` skips any number of components: ``**.bias`` chooses every bias.
    """
    wanted, path = pattern.split("."), name.split(".")
    if wanted[0] == "**":
        return any(_leads(wanted[1:], path[start:]) for start in range(len(path)))
    return _leads(wanted, path)


def chosen(pattern: str, names: Iterable[str]) -> list[str]:
    """The ``names`` that ``pattern`` chooses, in their order."""
    return [name for name in names if matches(pattern, name)]


def _leads(wanted: list[str], path: list[str]) -> bool:
    return len(wanted) <= len(path) and all(_fits(w, p) for w, p in zip(wanted, path, strict=False))


def _fits(wanted: str, component: str) -> bool:
    if (found := _RANGE.fullmatch(wanted)) and component.isdecimal():
        return int(found[1]) <= int(component) <= int(found[2])
    return fnmatchcase(component, wanted)
