"""Write the tables of docs/reference from the code, or check that they are up to date.

python docs/reference/generate.py            write the tables
python docs/reference/generate.py --check    write nothing; exit 1 and name the files that differ
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from decad import errors
from decad.cli.main import cli
from decad.config import MEASURED_FIELDS, PeerConfig, RunSpec
from decad.settings import NEEDED_SETTINGS

HERE = Path(__file__).resolve().parent
WIDTH = 110
"""Columns of the terminal that the commands' help is shown for."""
OPERATORS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the docstring below it in the source."""
    (class_,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(class_, ast.ClassDef)
    docs = {}
    for field, text in zip(class_.body, class_.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            docs[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return docs


def default_of(name: str, info: FieldInfo) -> str:
    """What the setting is when nobody sets it."""
    if name == "state_dir":  # filled in by load_settings, since it depends on the machine
        return "`$XDG_STATE_HOME/decad`, else `~/.local/state/decad`"
    if name in NEEDED_SETTINGS:
        return "must be set"
    if info.default is None:
        return "unset"
    if info.default in ("", ()):
        return "empty"
    return f"`{str(info.default).lower() if isinstance(info.default, bool) else info.default}`"


def values_of(info: FieldInfo) -> str:
    """The values that it takes, as far as its type tells."""
    kind: Any = info.annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is tuple:
        return "list"
    if get_origin(kind) is UnionType:  # a path, or none
        (kind,) = set(get_args(kind)) - {NoneType}
    name = {Path: "path", str: "text", int: "integer", float: "number", bool: "`true`, `false`"}[kind]
    bounds = [
        f"{sign} {limit_of(getattr(part, key))}"
        for part in info.metadata
        for key, sign in OPERATORS.items()
        if getattr(part, key, None) is not None
    ]
    return " ".join([name, ", ".join(bounds)]).strip()


def limit_of(value: float) -> str:
    """A bound; large powers of two as such."""
    power = int(value).bit_length() - 1
    return f"2^{power}" if power >= 20 and value == 2**power else f"{value}"


def settings_table(model: type[BaseModel]) -> str:
    """Markdown: one row a setting."""
    docs = field_docs(model)
    rows = [
        f"| `{name}` | {values_of(info)} | {default_of(name, info)} | {cell(docs[name])} |"
        for name, info in model.model_fields.items()
        if name not in MEASURED_FIELDS
    ]
    return "\n".join(["| setting | values | default | meaning |", "|---|---|---|---|", *rows])


def exit_code_table() -> str:
    """Markdown: one row a code, with the errors that end a command with it."""
    found: dict[int, list[type[errors.DecadError]]] = {}
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.DecadError):
            found.setdefault(kind.exit_code, []).append(kind)
    rows = []
    for code, kinds in sorted(found.items()):
        names = ", ".join(f"`{kind.__name__}`" for kind in kinds)
        meanings = " ".join(cell(kind.__doc__ or "") for kind in kinds)
        rows.append(f"| {code} | {names} | {meanings} |")
    return "\n".join(["| code | errors | what happened |", "|---|---|---|", *rows])


def command_pages() -> str:
    """Markdown: one section a command, with its help as a terminal shows it."""
    return "\n\n".join(_sections(cli, "decad", None))


def _sections(command: click.Command, path: str, parent: click.Context | None) -> Iterator[str]:
    with click.Context(
        command,
        parent=parent,
        info_name=path.rpartition(" ")[2],
        terminal_width=WIDTH,
        **command.context_settings,
    ) as context:
        yield f"## {path}\n\n```text\n{command.get_help(context)}\n```"
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                yield from _sections(command.commands[name], f"{path} {name}", context)


def cell(text: str) -> str:
    """Text for a table's cell."""
    return " ".join(text.replace("``", "`").replace("|", "\\|").split())


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "settings.md": {"run": lambda: settings_table(RunSpec), "peer": lambda: settings_table(PeerConfig)},
    "cli.md": {"commands": command_pages},
    "exit-codes.md": {"exit-codes": exit_code_table},
}


def with_tables(name: str, text: str) -> str:
    """The page with its tables as the code has them now."""
    for mark, table in TABLES[name].items():
        start, end = f"<!-- {mark}: generated -->", "<!-- end -->"
        before, found, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            sys.exit(f"docs/reference/{name} lacks the lines {start} and {end}")
        text = f"{before}{start}\n\n{table()}\n\n{end}{after}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is out of date")
    check = parser.parse_args().check
    stale = []
    for name in TABLES:
        page = HERE / name
        text = page.read_text(encoding="utf-8")
        fresh = with_tables(name, text)
        if fresh != text:
            stale.append(name)
            if not check:
                page.write_text(fresh, encoding="utf-8")
    if check and stale:
        sys.exit(f"out of date: {', '.join(stale)}. Run: python docs/reference/generate.py")


if __name__ == "__main__":
    main()
