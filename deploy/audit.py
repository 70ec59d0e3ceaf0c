"""Known vulnerabilities of what is installed, by pip-audit: `make check`.

Where the package index knows no vulnerabilities, or does not answer, that is said in one line and is no failure.
"""

from __future__ import annotations

import json
import subprocess
import sys

PATIENCE_S = 120


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "--local", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        found = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        print("pip-audit: skipped, the index does not answer")
        return 0
    audited = [package for package in found if "vulns" in package]
    if not audited:
        print(f"pip-audit: skipped, the index knows no vulnerabilities of any of {len(found)} packages")
        return 0
    bad = [package for package in audited if package["vulns"]]
    for package in bad:
        for known in package["vulns"]:
            fixed = ", ".join(known["fix_versions"]) or "none yet"
            print(f"{package['name']} {package['version']}: {known['id']}; mended in {fixed}")
    print(
        f"pip-audit: {len(audited)} of {len(found)} packages looked at, {len(bad)} with known vulnerabilities"
    )
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
