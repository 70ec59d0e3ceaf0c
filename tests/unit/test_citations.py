"""What code, tests and docs cite is in the repository: files, directories, and the names of decad's own modules.

Looked at are docstrings and comments of Python, prose of everything else, and of messages what begins with docs/. A
word is a citation if it ends in .md or .py or begins with one of the repository's own directories. It may be relative
to the root, to the citing file, or to any directory between. Names without a directory that decad itself gives to
files (report.md) are none, nor are absolute paths, hidden directories, and words with a wildcard or a placeholder.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git tells what is in the repository")
PROSE = {".md", ".proto", ".toml", ".yml", ".yaml", ".service", ".sh", ".txt"}
WORD = re.compile(r"[\w./#*{}<>$%~:@-]+")
DOTTED = re.compile(r"`(decad(?:\.\w+)+)(?<!\.toml)`")


@cache
def tracked() -> frozenset[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return frozenset(file for file in listed.stdout.splitlines() if (ROOT / file).is_file())


@cache
def directories() -> frozenset[str]:
    return frozenset(str(parent) for file in tracked() for parent in PurePosixPath(file).parents)


@cache
def strings(file: str) -> tuple[frozenset[str], str]:
    """(strings of a Python file's code, its docstrings and comments)."""
    source = (ROOT / file).read_text(encoding="utf-8")
    tree = ast.parse(source)
    # A string that is a statement of its own is a docstring, of a module, a function or a value.
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [
        node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    told = [str(node.value) for node in texts if id(node) in statements]
    comments = [
        token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    return frozenset(str(n.value) for n in texts if id(n) not in statements), "\n".join(told + comments)


@cache
def given_names() -> frozenset[str]:
    """File names that code of decad itself holds, to write or to read them."""
    held = (strings(file)[0] for file in tracked() if file.startswith("decad/") and file.endswith(".py"))
    return frozenset(name for names in held for name in names if re.fullmatch(r"[\w-]+\.(md|py)", name))


def cited(text: str) -> Iterator[str]:
    roots = {directory for directory in directories() if "/" not in directory and directory[0] != "."}
    for found in WORD.findall(text):
        word = found.partition("::")[0].partition("#")[0].rstrip(".:-/")
        if re.search(r"[*{}<>$%~:@]", word) or re.match(r"/|\.\w", word):
            continue
        if word.endswith((".md", ".py")) or ("/" in word and word.partition("/")[0] in roots):
            yield word


def is_there(word: str, citing: str) -> bool:
    if word in given_names():
        return True
    for base in PurePosixPath(citing).parents:
        path = str(PurePosixPath(*_normal((base / word).parts)))
        if path in tracked() or path in directories() or _shortened(path):
            return True
    return False


def _normal(parts: tuple[str, ...]) -> Iterator[str]:
    kept: list[str] = []
    for part in parts:
        if part == ".." and kept:
            kept.pop()
        elif part != ".":
            kept.append(part)
    yield from kept


def _shortened(path: str) -> bool:
    """docs/adr/0007, a decision by its number; docs/measured/network, files that differ in their suffix."""
    ends = f"{path}." if not re.search(r"/\d{4}$", path) else f"{path}-"
    return any(file.startswith(ends) for file in tracked())


def dangling() -> Iterator[tuple[str, str]]:
    """(citing file, what it cites that is not there)."""
    for file in sorted(tracked()):
        if "_proto/" in file:
            continue
        if file.endswith(".py"):
            code, text = strings(file)
            words = [
                *cited(text),
                *(word for string in code for word in cited(string) if word[:5] == "docs/"),
            ]
        elif PurePosixPath(file).suffix in PROSE or "." not in PurePosixPath(file).name:
            words = list(cited((ROOT / file).read_text(encoding="utf-8")))
        else:
            continue
        yield from ((file, word) for word in words if not is_there(word, file))


def test_nothing_cites_a_file_that_is_not_in_the_repository() -> None:
    assert list(dangling()) == []


def names_of(module: str) -> frozenset[str]:
    """What a module defines: its names, and those of its classes as Class.name."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    return frozenset(_defined(tree.body, ""))


def _defined(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield prefix + node.name
            yield from _defined(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name
            stored = (
                n for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)
            )
            yield from (prefix + attribute.attr for attribute in stored)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from (prefix + (alias.asname or alias.name) for alias in node.names)


def is_named(dotted: str) -> bool:
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        path = "/".join(parts[:length])
        module = next((m for m in (f"{path}.py", f"{path}/__init__.py") if m in tracked()), None)
        if module is not None:
            return length == len(parts) or ".".join(parts[length:]) in names_of(module)
    return False


def test_every_dotted_name_of_decad_is_one() -> None:
    texts = (
        (file, strings(file)[1] if file.endswith(".py") else (ROOT / file).read_text(encoding="utf-8"))
        for file in sorted(tracked())
        if file.endswith((".py", ".md")) and "_proto/" not in file and file != "CHANGELOG.md"
    )
    assert [(file, name) for file, text in texts for name in DOTTED.findall(text) if not is_named(name)] == []


@pytest.mark.parametrize(
    ("word", "citing", "there"),
    [
        ("docs/theory.md", "decad/core/adam.py", True),
        ("algorithm.md", "decad/core/adam.py", False),
        ("support/virtual.py", "tests/support/cluster.py", True),
        ("../concepts.md", "docs/how-to/models.md", True),
        ("docs/adr/0007", "decad/core/round.py", True),
        (f"docs/adr/{9999}", "decad/core/round.py", False),
        ("tests/paper", "docs/theory.md", True),
        ("tests/papers", "docs/theory.md", False),
        ("report.md", "docs/how-to/lab-reports.md", True),
    ],
)
def test_what_counts_as_there(word: str, citing: str, there: bool) -> None:
    assert list(cited(f"See {word}, please.")) == [word]
    assert is_there(word, citing) == there


@pytest.mark.parametrize(
    "text", ["https://example.org/a.md", "runs/*.md", "<name>.py", "~/x.md", ".lab/a.md", "a/b"]
)
def test_what_is_no_citation(text: str) -> None:
    assert list(cited(text)) == []
