"""A checkpoint's tensors written and read as decad does it, and in the other ways of the safetensors library.

    python tests/bench/bench_safetensors.py [--mebibytes 512] [--rounds 5]

Of each way: median seconds, the most memory beside the tensors, and the longest time for which no other thread of the
process could run, as the event loop must beside a save. Each begins in a process of its own. Written is what a
checkpoint needs: forced to the disk, and with a SHA-256 of the file. Read is what goes on training: memory that can
be written to. docs/adr/0016 has the figures.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from decad.state.files import hash_file, write_file
from decad.state.tensors import read_tensors, serialise

MIB = 2**20


class Cost(NamedTuple):
    seconds: float
    memory: int
    """Bytes beside the tensors."""
    held: float
    """Seconds."""


def write_stream(tensors: dict[str, Tensor], path: Path) -> None:
    write_file(path, serialise(tensors))


def write_library(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    hash_file(path)


def write_library_bytes(tensors: dict[str, Tensor], path: Path) -> None:
    write_file(path, [save(tensors)])


def read_copied(tensors: dict[str, Tensor], path: Path) -> None:
    for tensor in read_tensors(path).values():
        tensor.add_(1)


def read_mapped(tensors: dict[str, Tensor], path: Path) -> None:
    for tensor in load_file(path).values():
        tensor.add_(1)


WAYS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "write, in a stream": write_stream,
    "write, save_file and hash": write_library,
    "write, save": write_library_bytes,
    "read, copied": read_copied,
    "read, mapped": read_mapped,
}


class Watched:
    """The longest gap between two turns of a thread that wants one every millisecond."""

    def __enter__(self) -> Watched:
        self.gap, self._done = 0.0, False
        self._thread = threading.Thread(target=self._turn)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done = True
        self._thread.join()

    def _turn(self) -> None:
        last = time.perf_counter()
        while not self._done:
            time.sleep(0.001)
            now = time.perf_counter()
            self.gap, last = max(self.gap, now - last), now


def memory(field: str) -> int:
    with open("/proc/self/status") as file:
        return 1024 * int(next(line for line in file if line.startswith(field)).split()[1])


def once(way: str, mebibytes: int, path: Path) -> Cost:
    torch.set_num_threads(1)
    writes = way.startswith("write")
    size = mebibytes * MIB // 4 // 4
    names = ("master", "m", "v", "public")
    tensors = {name: torch.full((size,), 1.0) for name in names} if writes else {}
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = memory("VmRSS")
    with Watched() as watched:
        begun = time.perf_counter()
        WAYS[way](tensors, path)
        seconds = time.perf_counter() - begun
    own = 0 if writes else mebibytes * MIB
    return Cost(seconds, memory("VmHWM") - before - own, watched.gap)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mebibytes", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    costs: dict[str, list[Cost]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder) / "file"
        for _ in range(options.rounds):
            for way in WAYS:
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    costs[way].append(pool.apply(once, (way, options.mebibytes, path)))
    for way, measured in costs.items():
        seconds, most, held = (statistics.median(column) for column in zip(*measured, strict=True))
        print(f"{way:26} {seconds:6.2f} s {most / MIB:8.0f} MiB {1000 * held:8.0f} ms held")


if __name__ == "__main__":
    main()
