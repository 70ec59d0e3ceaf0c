"""Three peers on one machine fine-tune SmolLM2 together, each on its own text, and a table shows what it bought.

DEMO_STEPS  inner steps of every run (default 60: two for each of the 30 layers)
DEMO_PEERS  peers (default 3); more peers than corpora share one by a disjoint split
Exits with 1 if training together was not better than training alone, on the mean.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path

from compare import Examiner, mean_of, on_own_domain, table
from fleet import Daemon, Fleet
from weights import import_smollm2

HERE = Path(__file__).parent
WORK = Path.cwd() / ".demo"
MODEL = WORK / "SmolLM2-135M-Instruct"
DOMAINS = ("bible", "devil", "jargon")
TEST_SHARE = 0.1
"""Of every corpus; no peer trains on it."""
SEQ_LEN, BATCH, INNER_STEPS, TEST_SEQUENCES = 128, 2, 2, 16
ADAPTERS = ("--adapters", "8")
RATES_ALONE = ("--lr", "6.8e-4", "--adapter-lr", "1.3e-3")
"""What a peer alone does best with, of what was tried: adapters at 0.3 of the default, which is for peers together.
Mean over all domains 3.980, at the default 4.061, with blocks alone at 0.002 4.033; on one's own the best or level."""
SETTLE = ("--settle", "2")
"""All of a few peers meet all others: mixed once each has the average of all."""


def main() -> int:
    """Run the demo; returns the exit code."""
    steps, count = _number("DEMO_STEPS", 60), _number("DEMO_PEERS", 3)
    begun = time.monotonic()
    print(
        f"decad demo: {count} peers on this machine, {steps} steps each, one private corpus each. They train once\n"
        "alone and once together, both with adapters, and once together without; then every model is examined on text\n"
        "of all domains that nobody trained on.\n"
    )
    import_smollm2(MODEL)
    peers, tests = _prepare_data(count)
    shutil.rmtree(WORK / "runs", ignore_errors=True)
    common = ["--model", str(MODEL), "--steps", str(steps), "--schedule", f"linear:{steps}"]
    common += [
        *SETTLE,
        "--seq-len",
        str(SEQ_LEN),
        "--batch-size",
        str(BATCH),
        "--inner-steps",
        str(INNER_STEPS),
    ]
    common += ["--held-out", "0.05", "--eval-batches", "4", "--eval-every", str(2 * steps)]

    print(f"1. Alone: {count} peers that know of nobody, with adapters.")
    alone_begun = time.monotonic()
    with Fleet(WORK / "runs" / "alone") as alone:
        for name, path in peers.items():
            by_itself = ["--run", f"alone-{name}", "--no-mdns", *ADAPTERS, *RATES_ALONE, "--settle", "0"]
            alone.start(name, [*common, *by_itself, "--data", str(path)])
        alone.watch(steps)
    alone_s = time.monotonic() - alone_begun

    print(f"\n2. Together, without adapters: {count} peers that find each other, and end with one model.")
    together_begun = time.monotonic()
    together, how = _together(peers, common, steps, "together")
    together_s = time.monotonic() - together_begun

    print("\n3. Together, with adapters beside the blocks.")
    adapted_begun = time.monotonic()
    adapted, how = _together(peers, [*common, *ADAPTERS], steps, "adapters")
    adapted_s = time.monotonic() - adapted_begun

    print("\n4. Examining every model on all domains.")
    examiner = Examiner(MODEL, tests, SEQ_LEN, TEST_SEQUENCES)
    base = examiner.base()
    apart = {daemon.name: _examined(examiner, "alone", daemon) for daemon in alone.daemons}
    joined = {daemon.name: _examined(examiner, "together", daemon) for daemon in together.daemons}
    beside = {daemon.name: _examined(examiner, "adapters", daemon) for daemon in adapted.daemons}
    rows = [("base model", base)]
    rows += [(f"alone: {name}", row) for name, row in apart.items()]
    rows += [(f"without adapters: {name}", row) for name, row in joined.items()]
    rows += [(f"together: {name}", row) for name, row in beside.items()]
    print(f"\nHeld-out loss in nats a token, lower is better; columns are domains.\n\n{table(rows)}\n")

    own = {name: _domain(name) for name in peers}
    print("What each peer has of it on its own domain, on which it could have trained alone:\n")
    print(f"{on_own_domain(base, apart, joined, beside, own)}\n")

    means = {
        how: mean_of(list(of.values()))
        for how, of in (("alone", apart), ("blocks", joined), ("both", beside))
    }
    gain = means["alone"] - means["both"]
    print(
        f"Mean loss over all domains: base {mean_of([base]):.3f}, alone {means['alone']:.3f}, together without "
        f"adapters {means['blocks']:.3f}, together {means['both']:.3f}: joining bought {gain:.3f}."
    )
    print(
        f"Found each other by {how}. Sent {_sent(adapted)} a peer, without adapters {_sent(together)}; no text left "
        "its process."
    )
    print(
        f"Time: alone {alone_s:.0f} s, together without adapters {together_s:.0f} s, with {adapted_s:.0f} s, all "
        f"{time.monotonic() - begun:.0f} s."
    )
    print(f"Logs and checkpoints are in {WORK / 'runs'}.")
    if gain <= 0:
        print("Together was not better than alone: that should not be.", file=sys.stderr)
        return 1
    return 0


def _sent(fleet: Fleet) -> str:
    """By one peer, in the mean."""
    sent = [daemon.status.traffic.sent for daemon in fleet.daemons]
    total = sum(b.block + b.first_moment + b.second_moment + b.adapters + b.overhead + b.fetch for b in sent)
    return f"{total / len(sent) / 1e6:.0f} MB"


def _domain(name: str) -> str:
    return next(domain for domain in DOMAINS if name.startswith(domain))


def _examined(examiner: Examiner, how: str, daemon: Daemon) -> dict[str, float]:
    print(f"  {how}: {daemon.name}", flush=True)
    return examiner.peer(daemon.state_dir)


def _together(peers: dict[str, Path], common: list[str], steps: int, folder: str) -> tuple[Fleet, str]:
    for by_mdns in (True, False):
        ports = _free_ports(len(peers))
        with Fleet(WORK / "runs" / (folder if by_mdns else f"{folder}-by-peers")) as fleet:
            for (name, path), port in zip(peers.items(), ports, strict=True):
                find = [] if by_mdns else ["--no-mdns", "--peers", ",".join(f"127.0.0.1:{p}" for p in ports)]
                wait = ["--min-peers", str(len(peers) - 1), "--listen", f"127.0.0.1:{port}"]
                fleet.start(name, [*common, *find, *wait, "--data", str(path), "--run", f"demo-{folder}"])
            if not fleet.found_each_other():
                print("  Multicast is not to be had here: starting again with --peers.")
                continue
            for daemon in fleet.daemons:
                known = ", ".join(f"{n.name} ({n.found})" for n in daemon.status.neighbours)
                print(f"  {daemon.name} found {known}")
            fleet.watch(steps)
            return fleet, "mDNS" if by_mdns else "--peers"
    raise SystemExit("demo: the peers could not reach each other on 127.0.0.1")


def _prepare_data(count: int) -> tuple[dict[str, Path], dict[str, Path]]:
    """Training text of each peer, by the peer's name, and test text of each domain."""
    shares = Counter(DOMAINS[i % len(DOMAINS)] for i in range(count))
    folder = WORK / "data"
    folder.mkdir(parents=True, exist_ok=True)
    peers: dict[str, Path] = {}
    tests: dict[str, Path] = {}
    for domain in DOMAINS:
        paragraphs = (HERE / "corpora" / f"{domain}.txt").read_text(encoding="utf-8").split("\n\n")
        kept = round(len(paragraphs) * (1 - TEST_SHARE))
        tests[domain] = folder / f"{domain}.test.txt"
        tests[domain].write_text("\n\n".join(paragraphs[kept:]), encoding="utf-8")
        for part in range(shares[domain]):
            name = domain if shares[domain] == 1 else f"{domain}-{part + 1}"
            peers[name] = folder / f"{name}.txt"
            own = paragraphs[:kept][part :: shares[domain]]
            peers[name].write_text("\n\n".join(own), encoding="utf-8")
    return peers, tests


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for probe in sockets:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in sockets]
    for probe in sockets:
        probe.close()
    return ports


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdigit() or int(value) < 1:
        raise SystemExit(f"demo: {name}={value} is not a whole number above 0")
    return int(value)


if __name__ == "__main__":
    # Ended from outside, it still ends its daemons on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
