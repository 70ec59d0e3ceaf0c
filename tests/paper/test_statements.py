"""docs/theory.md and these tests refer to each other by number."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__)
NUMBER = re.compile(r"\bT\d+\b")


def claims() -> Iterator[tuple[str, str]]:
    """(number, test) of every number in a test's docstring."""
    for file in HERE.parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for number in NUMBER.findall(ast.get_docstring(node) or ""):
                    yield number, node.name


def test_every_statement_has_a_test_and_every_number_a_statement() -> None:
    text = (HERE.parents[2] / "docs" / "theory.md").read_text(encoding="utf-8")
    stated = re.findall(r"^\*\*(T\d+)\.", text, re.MULTILINE)
    assert stated == [f"T{i}" for i in range(1, len(stated) + 1)]
    assert {number for number, _ in claims()} == set(stated)
