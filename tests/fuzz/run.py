"""Look for inputs that break a parser: `make fuzz SECONDS=120`, so long for each target; what is found is kept.

The inputs that reach something new are in tests/fuzz/corpus, a line each in hexadecimal, and are tried by `make test`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
LONGEST = 1024
MOST_KEPT = 200


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=120, help="for each target")
    parser.add_argument("--only", nargs="*", default=[], help="targets")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.path.insert(0, str(HERE.parent))
    if args.inside:
        _fuzz(args.inside, args.folder, args.seconds)
        return 0
    from fuzz.targets import targets

    failed = []
    for name, target in targets().items():
        if args.only and name not in args.only:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            for number, seed in enumerate([*target.seeds, *read(name)]):
                (folder / f"seed-{number}").write_bytes(seed)
            inside = ["--inside", name, "--folder", temporary, "--seconds", str(args.seconds)]
            command = [sys.executable, __file__, *inside]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            runs = [line for line in done.stderr.splitlines() if "Done" in line or "exec/s" in line]
            if done.returncode:
                failed.append(name)
                print(done.stdout[-2000:], done.stderr[-4000:], sep="\n")
            kept = keep(name, folder)
            result = "FAULT" if done.returncode else "no fault"
            print(f"{name}: {(runs or ['?'])[-1].strip()}; {kept} inputs kept; {result}", flush=True)
    return bool(failed)


def read(name: str) -> list[bytes]:
    """What was kept of a target."""
    file = CORPUS / f"{name}.txt"
    return [bytes.fromhex(line) for line in file.read_text().split()] if file.exists() else []


def keep(name: str, folder: Path) -> int:
    """The shortest inputs that atheris found worth keeping, and those of before."""
    found = {path.read_bytes() for path in folder.iterdir()} | set(read(name))
    chosen = sorted((one for one in found if 0 < len(one) <= LONGEST), key=lambda one: (len(one), one))[
        :MOST_KEPT
    ]
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / f"{name}.txt").write_text("".join(f"{one.hex()}\n" for one in chosen))
    return len(chosen)


def _fuzz(name: str, folder: Path, seconds: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["decad", "fuzz"]):
        from fuzz.targets import targets

    target = targets()[name]
    options = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-print_final_stats=0", "-timeout=10"]
    atheris.Setup([sys.argv[0], *options, str(folder)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
