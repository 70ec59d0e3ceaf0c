"""All attacks, and one table of what came of them: `make security`.

    python tests/security/run.py [--json FILE] [-k EXPRESSION]

Three daemons train while they are attacked by a member, or by somebody without the secret; the step rate beside a row
is theirs while attacked, in that of the seconds before. Attacks that need no daemon are tried by other suites, each a
row here. Exits with 1 if anything was not as expected.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]


class Elsewhere(NamedTuple):
    """An attack that tests of another suite try."""

    attack: str
    expected: str
    tests: str
    """File below tests/, with ::NAME for some of it."""


ELSEWHERE = (
    Elsewhere(
        "certificates: none, of another run, expired, future, self-made, swapped; plain against TLS and the reverse",
        "no link",
        "unit/wire/test_mutual_tls.py",
    ),
    Elsewhere(
        "identity: theft, replay of recorded statements, relay by a member between two others",
        "not proved, no link",
        "unit/wire/test_mutual_tls.py",
    ),
    Elsewhere(
        "secrets: rotated, retired, damaged; peers denied and only listed ones",
        "at once, without a restart",
        "integration/test_members_only.py",
    ),
    Elsewhere(
        "a secret that others can read; one with a slip of the hand",
        "refused with what to do",
        "unit/trust/test_secret.py",
    ),
    Elsewhere("forged verdicts of admins", "not kept; the link ends", "unit/trust/test_roster.py"),
    Elsewhere(
        "invitations: code guessed, reused, expired, malformed 1,000 times; man in the middle; path traversal",
        "burnt after three; nothing handed over; no name leads out",
        "unit/trust/test_invitations.py",
    ),
    Elsewhere(
        "a joiner's donor: lies, declines, gives what is old, is silent, sends damaged or foreign chunks",
        "another is asked; the liar's link ends",
        "unit/daemon/test_download.py",
    ),
    Elsewhere(
        "a donor's answers by hand, 20 kinds of nonsense", "the link ends", "unit/daemon/test_fetch.py"
    ),
    Elsewhere(
        "mDNS: nonsense, foreign addresses, other keys",
        "passed over",
        "integration/test_mdns_loopback.py",
    ),
    Elsewhere(
        "addresses that others name", "few at a time, ever more rarely", "unit/membership/test_dialplan.py"
    ),
    Elsewhere("steps that others claim", "moves nobody far", "unit/membership/test_credible.py"),
    Elsewhere("late and missing messages, again and again", "not waited for", "unit/core/test_deadline.py"),
    Elsewhere("values out of all proportion, every rule", "taken back", "unit/lab/test_methods.py"),
    Elsewhere(
        "damaged, random and remembered inputs to 15 parsers", "taken or refused", "property/test_fuzz.py"
    ),
    Elsewhere("a model directory with code in it", "refused; nobody is asked", "unit/test_supply_chain.py"),
    Elsewhere("another's folder below /tmp for the socket", "refused", "unit/cli/test_private_socket.py"),
    Elsewhere("data, names and paths in what is sent", "none", "integration/test_privacy.py"),
)


class Collector:
    """Gathers what pytest tells."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.passed: Counter[str] = Counter()
        self.failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = report.nodeid.partition("::")[0].removeprefix("tests/")
        if report.failed:
            self.failed[report.nodeid] = report.longreprtext.strip().splitlines()[-1]
        elif report.when == "call" and report.passed:
            self.passed[file] += 1
        if report.when == "teardown":
            for name, value in report.user_properties:
                if name == "attack":
                    assert isinstance(value, dict)
                    self.rows.append(value | {"failed": self.failed.get(report.nodeid, "")})


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("-k", default="", help="only live attacks that match, as in pytest, and nothing else")
    chosen = parser.parse_args()
    live = Collector()
    pytest.main(
        [str(ROOT / "tests/security"), "-q", "-k", chosen.k, "-p", "no:cacheprovider"], plugins=[live]
    )
    rows = live.rows
    if not chosen.k:
        elsewhere = Collector()
        files = dict.fromkeys(str(ROOT / "tests" / it.tests) for it in ELSEWHERE)
        pytest.main([*files, "-q", "-p", "no:cacheprovider"], plugins=[elsewhere])
        rows += [_row(it, elsewhere) for it in ELSEWHERE]
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2) + "\n")
    print(f"\n{render(rows)}\n")
    bad = [row for row in rows if row["failed"]]
    print(f"{len(rows)} attacks, {len(bad)} not as expected")
    return int(bool(bad) or not rows)


def _row(it: Elsewhere, collector: Collector) -> dict[str, Any]:
    failed = [why for node, why in collector.failed.items() if it.tests in node]
    passed = collector.passed[it.tests]
    why = "; ".join(failed) if failed else ("" if passed else "no test ran")
    seen = f"{passed} tests of {it.tests} passed"
    return {"attack": it.attack, "expected": it.expected, "seen": seen, "rate": -1.0, "failed": why}


def render(rows: list[dict[str, Any]]) -> str:
    """For people: attack, expected, seen, step rate."""
    widths = (44, 40, 44, 5)
    lines = []
    for row in rows:
        rate = f"{row['rate']:.2f}" if row["rate"] >= 0 else ""
        seen = f"NOT AS EXPECTED: {row['failed']}" if row["failed"] else row["seen"]
        texts = (row["attack"], row["expected"], seen, rate)
        cells = [textwrap.wrap(text, width) or [""] for text, width in zip(texts, widths, strict=True)]
        for line in range(max(map(len, cells))):
            parts = [
                (cell[line] if line < len(cell) else "").ljust(w)
                for cell, w in zip(cells, widths, strict=True)
            ]
            lines.append("  ".join(parts).rstrip())
    head = "  ".join(
        name.ljust(w) for name, w in zip(("attack", "expected", "seen", "rate"), widths, strict=True)
    )
    return "\n".join([head.rstrip(), "  ".join("-" * w for w in widths), *lines])


if __name__ == "__main__":
    sys.exit(main())
