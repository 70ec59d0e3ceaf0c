"""Compare what `decad lab network` predicts with daemons whose lines are narrow (as root, some minutes).

python tests/bench/network_check.py [SETTING ...]     prints one row a setting; exit 1 if a step's time is off by more
                                                      than 25 %
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from support.daemon import fleet
from support.lines import Setting, measure
from support.netns import Namespaces, unavailable
from support.nursery import Nursery
from support.tiny import make_tiny_llama

TOLERANCE = 0.25
HIDDEN = 48
"""Of the model: its one block has 0.17 MB, a second's worth of these lines. With more, beacons would wait behind it for
so long that neighbours are suspected (docs/how-to/faults.md, "a narrow line"), of which the model knows nothing."""
SETTINGS = {
    "ring of 3, 0.3 MB/s": Setting("ring", (3e5,) * 3),
    "full of 4, 0.45 MB/s": Setting("full", (4.5e5,) * 4),
    "ring of 6, 0.6 MB/s, one 0.3 MB/s": Setting("ring", (3e5, *(6e5,) * 5)),
    "line of 4, 0.3 MB/s, 0.1 s of delay": Setting("line", (3e5,) * 4, delay_s=0.05),
    "random:2 of 8, 0.6 MB/s": Setting("random:2", (6e5,) * 8),
}


def main(names: list[str]) -> int:
    """Run the settings called ``names``, or all."""
    if reason := unavailable():
        sys.exit(reason)
    print(f"{'':36} {'step, s':>23} {'MB a step':>15} {'complete':>15}")
    print(f"{'':36} {'model':>7} {'daemons':>7} {'ratio':>7} " + f"{'model':>7} {'daemons':>7} " * 2)
    off = 0
    with tempfile.TemporaryDirectory() as folder, Nursery() as nursery:
        root = Path(folder)
        model = make_tiny_llama(root / "model", hidden=HIDDEN)
        texts = root / "texts"
        texts.mkdir()
        (texts / "a.txt").write_text("All work and no play makes a dull corpus. " * 500)
        for number, name in enumerate(names or SETTINGS):
            setting, here = SETTINGS[name], root / str(number)
            here.mkdir()
            with Namespaces(len(setting.names)) as net, fleet(nursery, here, model, texts) as daemons:
                said, seen = measure(setting, net, daemons)
            ratio = said.step_s / seen.step_s
            off += abs(ratio - 1) > TOLERANCE
            print(
                f"{name:36} {said.step_s:7.2f} {seen.step_s:7.2f} {ratio:7.2f} "
                f"{said.bytes_sent / 1e6:7.2f} {seen.bytes_sent / 1e6:7.2f} {said.complete:7.0%} {seen.complete:7.0%}",
                flush=True,
            )
    return int(off > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
