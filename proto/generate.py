"""Generate decad/_proto from proto/decad/v1, or check that what is committed is up to date.

    python proto/generate.py            write the modules
    python proto/generate.py --check    write nothing; exit 1 and name the files that differ

The tools are pinned in pyproject.toml's dev group: equal inputs must give equal files on every machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "proto" / "decad" / "v1"
PACKAGE = "decad/_proto"
TOOLS = ("grpcio-tools", "mypy-protobuf")


def require_pinned_tools() -> None:
    """Exit with the command to run unless the tools have exactly the versions of pyproject.toml."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    for tool in TOOLS:
        (pin,) = (entry for entry in groups["dev"] if entry.startswith(f"{tool}=="))
        try:
            found = version(tool)
        except PackageNotFoundError:
            found = "none"
        if pin != f"{tool}=={found}":
            sys.exit(f"proto/generate.py needs {pin}, found {found}. Run: pip install --group dev")


def generate(target: Path) -> dict[str, bytes]:
    """Run protoc below ``target``; file name -> content of every generated module."""
    scripts = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # where the plugins are
    )
    # The virtual path makes the generated modules import one another as decad._proto.*.
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PACKAGE}={SOURCES}"]
    messages = [f"--python_out={target}", f"--mypy_out=quiet:{target}"]
    services = [f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}"]
    # The peers' service has no generated stubs: wire sends bytes by generic handlers.
    for name, outputs in (("peer", messages), ("control", messages + services)):
        command = [*protoc, *outputs, str(SOURCES / f"{name}.proto")]
        if subprocess.run(command, env={**os.environ, "PATH": scripts}, check=False).returncode != 0:
            sys.exit(f"protoc failed on {name}.proto")
    return {path.name: path.read_bytes() for path in sorted((target / PACKAGE).iterdir())}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is out of date")
    check = parser.parse_args().check
    require_pinned_tools()
    with tempfile.TemporaryDirectory() as scratch:
        wanted = generate(Path(scratch))
    package = ROOT / PACKAGE
    present = {path.name: path.read_bytes() for path in package.glob("*_pb2*") if path.is_file()}
    stale = sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))
    if check and stale:
        sys.exit(f"out of date in {PACKAGE}: {', '.join(stale)}. Run: python proto/generate.py")
    for name in stale if not check else ():
        if name in wanted:
            (package / name).write_bytes(wanted[name])
        else:
            (package / name).unlink()
    print(f"{PACKAGE}: {len(wanted)} files, {'up to date' if not stale else f'{len(stale)} written'}")


if __name__ == "__main__":
    main()
