"""The documentation says what the code does, where a program can tell."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *ROOT.glob("deploy/**/*.md"),
]


def test_the_tables_of_settings_and_exit_codes_are_up_to_date() -> None:
    script = ROOT / "docs" / "reference" / "generate.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("source", sorted(ROOT.glob("decad/**/*.py")), ids=lambda s: str(s.relative_to(ROOT)))
def test_pages_that_the_code_names_exist(source: Path) -> None:
    named = re.findall(r"docs/(?:[\w-]+/)*[\w-]+(?:\.md)?", source.read_text(encoding="utf-8"))
    missing = [name for name in named if not list(ROOT.glob(f"{name}*"))]
    assert missing == []
