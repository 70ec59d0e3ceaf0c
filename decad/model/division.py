"""How a model is divided into blocks: by layers, parts of layers, evenly into N, or as the operator says.

What comes before a model's layers (its embeddings) and after them (final norm and head) is told from the modules, not
from their names, so that any architecture whose layers lie in one list can be divided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import nn

from decad.core.blocks import Block, BlockPlan, Rows
from decad.errors import ConfigError
from decad.model.patterns import chosen, matches

NONE = "none"
"""No block is trained."""
LARGEST = 2
"""No block that can be divided is larger than the mean so many times."""
AUTOMATIC = 32
"""Blocks of a model that has no list of layers."""
_ATTENTION = ("attn", "attention", "input", "ln_1")
"""Marks of a layer's children that belong to its attention: its modules, and the norms before and after them."""


class _Unit(NamedTuple):
    """What is not divided any further."""

    name: str
    members: list[Rows]
    numel: int


def divide(
    module: nn.Module, blocks: str = "layers", freeze: Sequence[str] = (), without: Collection[str] = ()
) -> BlockPlan:
    """The block plan of ``module``, input side first; its weights may lie on the ``meta`` device.

    ``blocks``: ``layers`` (a block a layer, the embeddings, and the head), ``sublayers`` (attention and the rest of
    each layer apart), a number of blocks of about the same size, ``NAME=PATTERN,...;NAME=...``, or ``none``: one
    without parameters, for runs that train adapters alone. ``freeze``: patterns of parameters that are not trained
    (`patterns.matches`). ``without``: names of some that are in no block, frozen or not. With ``layers`` and
    ``sublayers``, embeddings and heads of more than twice the mean block are divided by rows. Raises ConfigError when a
    pattern matches nothing, when a parameter is in two blocks or in none, and when there is nothing to train.
    """
    if blocks == NONE:
        return BlockPlan((Block(0, NONE, ()),))
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    for pattern in freeze:
        frozen = _chosen(pattern, shapes, "--freeze")
        shapes = {name: shape for name, shape in shapes.items() if name not in frozen}
    shapes = {name: shape for name, shape in shapes.items() if name not in without}
    if not shapes:
        raise ConfigError("--freeze leaves nothing to train. Freeze less.")
    if "=" in blocks:
        return BlockPlan.build(_by_patterns(blocks, shapes), shapes)
    if blocks.isdecimal():
        units = _cut(
            _units(module, shapes, parts=False),
            shapes,
            lambda sizes: max(1, sum(sizes) // max(1, int(blocks))),
        )
        return _plan(_evenly(units, int(blocks)), shapes)
    if blocks not in ("layers", "sublayers"):
        raise ConfigError(
            f"--blocks {blocks} is not known. Use layers, sublayers, a number, NAME=PATTERN,...;NAME=PATTERN,..., or "
            "none."
        )
    units = _units(module, shapes, parts=blocks == "sublayers")
    return _plan(_cut(units, shapes, lambda sizes: LARGEST * sum(sizes) // len(sizes)), shapes)


def _chosen(pattern: str, names: Iterable[str], setting: str) -> list[str]:
    if found := chosen(pattern, names):
        return found
    some = ", ".join(list(names)[:3])
    raise ConfigError(
        f"{setting}: {pattern!r} matches no parameter that is to be divided into blocks. Patterns match whole "
        f"components of a parameter's path, from the first: the model has {some}, ..."
    )


def _by_patterns(blocks: str, shapes: Mapping[str, Sequence[int]]) -> list[tuple[str, list[str]]]:
    groups: list[tuple[str, list[str]]] = []
    holder: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in blocks.split(";"))):
        name, _, listed = part.partition("=")
        name, patterns = name.strip(), [pattern.strip() for pattern in listed.split(",") if pattern.strip()]
        if not name or not patterns:
            raise ConfigError(
                f"--blocks: {part!r} is a block without {'patterns' if name else 'a name'}. Write NAME=PATTERN,... for "
                "each block, as in low=model.layers.0-3, or leave it out."
            )
        for pattern in patterns:
            for parameter in _chosen(pattern, shapes, "--blocks"):
                if holder.setdefault(parameter, name) != name:
                    raise ConfigError(
                        f"--blocks: {parameter} is in two blocks, {holder[parameter]} and {name}. Make their patterns "
                        "exclude each other."
                    )
        groups.append((name, [parameter for parameter in shapes if holder.get(parameter) == name]))
    if missing := [name for name in shapes if name not in holder]:
        raise ConfigError(
            f"--blocks: {len(missing)} parameters are in no block, {missing[0]} for one. Add a block for them, or "
            f"leave them as they are with --freeze."
        )
    if twice := {name for name, _ in groups if [n for n, _ in groups].count(name) > 1}:
        raise ConfigError(f"--blocks: two blocks are called {min(twice)}. Give each a name of its own.")
    return groups


# -- units ------------------------------------------------------------------------------------------------------


def _units(module: nn.Module, shapes: Mapping[str, Sequence[int]], *, parts: bool) -> list[_Unit]:
    """What is before the layers, the layers or their parts, and what is after them."""
    stack = _stack(module, shapes)
    if stack is None:
        leaves = _grouped(shapes, lambda name: name.rpartition(".")[0])
        return _evenly(leaves, min(AUTOMATIC, len(leaves)))
    inside = {name: shape for name, shape in shapes.items() if matches(stack, name)}
    outside = {name: shape for name, shape in shapes.items() if name not in inside}
    before = _input_side(module, stack, outside)
    depth = len(stack.split("."))

    def place(name: str) -> str:
        path = name.split(".")[depth:]
        if not parts:
            return f"layer.{path[0]}"
        return f"layer.{path[0]}.{'attention' if any(mark in path[1] for mark in _ATTENTION) else 'rest'}"

    layers = sorted(_grouped(inside, place), key=lambda unit: int(unit.name.split(".")[1]))
    head = {name: shape for name, shape in outside.items() if name not in before}
    units = _grouped({name: shapes[name] for name in before}, lambda _: "embedding") + layers
    tail = _grouped(head, lambda _: "head")
    # A final norm alone is no block: it would be trained for a whole phase, and the last layer changes with it.
    if tail and layers and all(len(shape) < 2 for shape in head.values()):
        last = units.pop()
        tail = [_Unit(last.name, last.members + tail[0].members, last.numel + tail[0].numel)]
    return units + tail


def _stack(module: nn.Module, shapes: Mapping[str, Sequence[int]]) -> str | None:
    """The path of the list of modules that holds most of the trainable parameters; of nested ones the outermost."""
    lists = [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) > 1 and name
    ]
    held = {path: _numel({n: shapes[n] for n in shapes if matches(path, n)}) for path in lists}
    found = max(held, key=lambda path: (held[path], -len(path)), default=None)
    return found if found is not None and held[found] else None


def _input_side(module: nn.Module, stack: str, outside: Iterable[str]) -> list[str]:
    """Those in a module that holds an embedding and not the layers."""
    way = [stack.rsplit(".", up)[0] for up in range(stack.count(".") + 1)]
    embeddings = [name for name, part in module.named_modules() if isinstance(part, nn.Embedding)]
    roots = set()
    for name in embeddings:
        path = name.split(".")
        roots.add(next(".".join(path[:n]) for n in range(1, len(path) + 1) if ".".join(path[:n]) not in way))
    return [name for name in outside if any(matches(root, name) for root in roots)]


def _grouped(shapes: Mapping[str, Sequence[int]], key: Callable[[str], str]) -> list[_Unit]:
    groups: dict[str, list[str]] = {}
    for name in shapes:
        groups.setdefault(key(name), []).append(name)
    return [
        _Unit(
            name,
            [Rows(member, 0, shapes[member][0] if shapes[member] else 1) for member in members],
            _numel({member: shapes[member] for member in members}),
        )
        for name, members in groups.items()
    ]


def _numel(shapes: Mapping[str, Sequence[int]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


# -- sizes ------------------------------------------------------------------------------------------------------


def _cut(
    units: Sequence[_Unit], shapes: Mapping[str, Sequence[int]], largest: Callable[[Sequence[int]], int]
) -> list[_Unit]:
    """``units``, their matrices outside the layers divided by rows so that none is above ``largest`` of all sizes."""
    limit = largest([unit.numel for unit in units])
    while True:
        cut = [
            piece
            for unit in units
            for piece in (
                _by_rows(unit, shapes, limit) if unit.numel > limit and _may_be_cut(unit) else [unit]
            )
        ]
        # The more pieces, the smaller the mean.
        lower = largest([unit.numel for unit in cut])
        if lower >= limit or all(unit.numel <= lower or not _may_be_cut(unit) for unit in cut):
            return cut
        limit = lower


def _may_be_cut(unit: _Unit) -> bool:
    return unit.name.partition(".")[0] in ("embedding", "head") and any(
        m.stop - m.start > 1 for m in unit.members
    )


def _by_rows(unit: _Unit, shapes: Mapping[str, Sequence[int]], limit: int) -> list[_Unit]:
    """The unit's largest matrix in as few pieces as stay below ``limit``; the rest of the unit lies in the first."""
    largest = max(unit.members, key=lambda member: _held([member], shapes))
    rest = [member for member in unit.members if member is not largest]
    count = math.ceil(unit.numel / max(limit, 1))
    small, row = _held(rest, shapes), math.prod(shapes[largest.name][1:])
    ends = [largest.start + max(0, (unit.numel * part // count - small) // row) for part in range(1, count)]
    # The rows of a parameter follow each other from block to block, so the rest comes before them.
    pieces = [
        [*(rest if place == 0 else []), *([Rows(largest.name, start, stop)] if stop > start else [])]
        for place, (start, stop) in enumerate(pairwise([largest.start, *ends, largest.stop]))
    ]
    return [_Unit(unit.name, members, _held(members, shapes)) for members in pieces if members]


def _held(members: Iterable[Rows], shapes: Mapping[str, Sequence[int]]) -> int:
    return sum((member.stop - member.start) * math.prod(shapes[member.name][1:]) for member in members)


def _evenly(units: Sequence[_Unit], count: int) -> list[_Unit]:
    """``units`` joined to ``count`` in their order, the largest as small as can be. Raises ConfigError if too few."""
    if not 1 <= count <= len(units):
        raise ConfigError(
            f"--blocks {count}: this model can be divided evenly into 1 to {len(units)} blocks. Use --blocks sublayers "
            "for smaller ones."
        )
    low, high = max(unit.numel for unit in units), sum(unit.numel for unit in units)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_filled(units, middle, 1)) <= count else (middle + 1, high)
    return [_joined(group) for group in _filled(units, low, count)]


def _filled(units: Sequence[_Unit], capacity: int, count: int) -> list[list[_Unit]]:
    """Groups of at most ``capacity`` each, filled from the first on; at least ``count``."""
    groups: list[list[_Unit]] = [[]]
    for place, unit in enumerate(units):
        needed = count - len(groups)
        full = sum(u.numel for u in groups[-1]) + unit.numel > capacity
        if groups[-1] and (full or len(units) - place <= needed):
            groups.append([])
        groups[-1].append(unit)
    return groups


def _joined(units: Sequence[_Unit]) -> _Unit:
    members: list[Rows] = []
    for member in (member for unit in units for member in unit.members):
        if members and members[-1].name == member.name:
            members[-1] = members[-1]._replace(stop=member.stop)
        else:
            members.append(member)
    names = list(dict.fromkeys(unit.name for unit in units))
    name = names[0] if len(names) == 1 else f"{names[0]}..{names[-1]}"
    return _Unit(name, members, sum(unit.numel for unit in units))


def _plan(units: Sequence[_Unit], shapes: Mapping[str, Sequence[int]]) -> BlockPlan:
    """Blocks named as their units; those that share a name are numbered."""
    names = [unit.name for unit in units]
    numbered = [
        f"{name}.{names[:place].count(name)}" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]
    return BlockPlan.build([(name, unit.members) for name, unit in zip(numbered, units, strict=True)], shapes)
