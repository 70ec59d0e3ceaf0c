"""What an operator reads when something is wrong: one paragraph, the right exit code, no traceback."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Fleet, Result
from support.tiny import make_tiny_llama

from decad.config import PROTOCOL_VERSION

pytestmark = pytest.mark.timeout(60)

CONFIG, MODEL, DATA, NETWORK, STATE, NO_DAEMON, PEER = 2, 3, 4, 5, 6, 7, 8
"""docs/reference/exit-codes.md."""


def _complains(result: Result, code: int, message: str) -> None:
    """It ended with ``code`` and a last line that matches ``message``; before it there are log lines only."""
    *log, last = result.err.splitlines()
    assert re.fullmatch(f"decad: {message}", last), result.err
    assert result.code == code
    assert result.out == ""
    assert [line for line in log if not re.match(r"\d\d:\d\d:\d\d ", line)] == []
    assert ".." not in last.replace("...", "")


# -- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--lr fast", "--lr = 'fast' is not accepted: it should be a valid number\\."),
        (
            "--inner-steps 0",
            "--inner-steps = '0' is not accepted: it should be greater than or equal to 1\\.",
        ),
        ("--order random", "--order = 'random' .* 'descending', 'ascending' or 'shuffled'\\."),
        ("--schedule cosine", "--schedule = 'cosine' .* needs a horizon, .* instance cosine:1200\\."),
        ("--overlay star", "--overlay = 'star' is not accepted: write full, ring, .*"),
        (
            "--overlay edges:@none",
            "--overlay: the edges cannot be read from none: No such file or directory\\.",
        ),
        ("--peers here,there", "--peers = 'here,there' is not accepted: 'here' is not host:port\\."),
        ("--listen 7700", "--listen = '7700' is not accepted: '7700' is not host:port\\."),
        ("--name a/b", "--name = 'a/b' is not accepted: use letters, digits, and \\. _ - only\\."),
        ("--device gpu", "--device gpu is not known\\. Use auto, cpu, cuda, cuda:N or mps\\."),
        (
            "--seq-len 512",
            "--seq-len 512 is longer than the 256 tokens that this model was made for\\. Give that or less, .*",
        ),
        ("--listen 0.0.0.0:0", "--listen 0.0.0.0:0 would accept links from other machines.* --insecure\\."),
        ("--larning-rate 1", "No such option '--larning-rate'.* See `decad start --help`\\."),
        ("--config none.toml", "none.toml cannot be read: No such file or directory\\. Check --config\\."),
    ],
    ids=lambda value: value.split()[0],
)
def test_a_flag_that_makes_no_sense(peers: Fleet, flags: str, message: str) -> None:
    _complains(peers.start("x", *flags.split()).result(), CONFIG, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modell = 'm'", r"modell \(in decad.toml\): there is no such setting\. Did you mean model\?"),
        (
            "colour = 'red'",
            r"colour \(in decad.toml\): there is no such setting\. Known settings: adapter_lr, .*",
        ),
        ("model_hash = 'x'", r"model_hash \(in decad.toml\): there is no such setting\. .*"),
        ("clip = 'no'", r"clip \(in decad.toml\) = 'no' is not accepted: it should be a valid number\."),
        ("clip = ", r"decad.toml is not valid TOML: Invalid value \(.*\)\."),
    ],
    ids=["typo", "unknown", "measured", "malformed", "no TOML"],
)
def test_a_file_that_makes_no_sense(peers: Fleet, text: str, message: str) -> None:
    (peers.folder / "decad.toml").write_text(text, encoding="utf-8")
    _complains(peers.start("x").result(), CONFIG, message)


def test_a_variable_that_makes_no_sense(peers: Fleet) -> None:
    unknown = peers.start("x", env={"DECAD_LEARNING_RATE": "1"}).result()
    _complains(unknown, CONFIG, r"DECAD_LEARNING_RATE \(environment\): there is no such setting\. .*")
    malformed = peers.start("x", env={"DECAD_CLIP": "no"}).result()
    _complains(malformed, CONFIG, r"DECAD_CLIP \(environment\) = 'no' is not accepted: .*")


def test_later_sources_win(peers: Fleet) -> None:
    (peers.folder / "decad.toml").write_text("clip = 'toml'\neps = 'toml'\nbeta1 = 'toml'", encoding="utf-8")
    env = {"DECAD_CLIP": "0.5", "DECAD_EPS": "env"}
    _complains(
        peers.start("x", "--beta1", "0.5", "--eps", "flag", env=env).result(), CONFIG, "--eps = 'flag' .*"
    )


def test_settings_that_are_missing(peers: Fleet) -> None:
    _complains(peers.run("start"), CONFIG, r"model is not set\. Give --model, set DECAD_MODEL, or write .*")
    _complains(peers.run("export", "out"), CONFIG, r"Missing option '--model'\. See `decad export --help`\.")
    _complains(peers.run("strat"), CONFIG, r"No such command 'strat'\. .*start.* See `decad --help`\.")


# -- files --------------------------------------------------------------------------------------------------


@pytest.fixture
def files(peers: Fleet) -> Path:
    folder = peers.folder
    (folder / "empty.txt").touch()
    (folder / "latin.txt").write_bytes(b"caf\xe9 " * 500)
    (folder / "short.txt").write_text("hello", encoding="utf-8")
    (folder / "folder").mkdir()
    return folder


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ("--model none", MODEL, "none is not a directory\\. Give --model the local directory .*"),
        ("--model folder", MODEL, "folder has no config.json, .*"),
        ("--data none.txt", DATA, "none.txt does not exist\\. Give --data .*"),
        ("--data folder", DATA, "folder holds no data files .*"),
        ("--data empty.txt", DATA, "The only record cannot be used: empty.txt: it is empty\\."),
        (
            "--data latin.txt",
            DATA,
            "The only record cannot be used: latin.txt: it is not UTF-8 text: byte 3 \\(0xe9\\) .*",
        ),
        ("--data short.txt", DATA, "the data has 6 tokens, and two sequences of 32 tokens .* need 64\\. .*"),
        (
            "--state-dir empty.txt",
            STATE,
            "The state directory empty.txt cannot be used: Not a directory\\. .*",
        ),
    ],
    ids=lambda value: str(value).removeprefix("--"),
)
def test_a_file_that_cannot_be_used(peers: Fleet, files: Path, flags: str, code: int, message: str) -> None:
    _complains(peers.start("x", *flags.split()).result(), code, message)


def test_debug_adds_the_traceback(peers: Fleet) -> None:
    ended = peers.start("x", "--data", "none.txt", debug=True).result()
    assert ended.code == DATA
    assert "Traceback (most recent call last):" in ended.err
    assert ended.err.splitlines()[-1].startswith("decad: none.txt does not exist.")


# -- the network of this machine ----------------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[str]:
    """An address at which somebody else listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield f"127.0.0.1:{other.getsockname()[1]}"


def test_a_port_that_is_taken(peers: Fleet, taken: str) -> None:
    ended = peers.start("x", "--listen", taken).result()
    _complains(ended, NETWORK, f"cannot listen on {taken}: address already in use\\. Choose another .*")


def test_an_interface_that_is_not_there(peers: Fleet) -> None:
    ended = peers.start("x", "--mdns", "--interface", "nope0").result()
    _complains(
        ended, NETWORK, "mDNS unavailable: this machine has no interface .*'nope0'\\. There are: lo .*"
    )


def test_no_daemon_to_talk_to(peers: Fleet) -> None:
    for command in ("status", "neighbours", "stop"):
        ended = peers.run(command, "--state-dir", "none")
        _complains(ended, NO_DAEMON, "No daemon runs with the state directory none\\. .*")


# -- other peers --------------------------------------------------------------------------------------------


def test_a_second_daemon_on_one_state_directory(trio: Fleet, peers: Fleet) -> None:
    a = trio["a"]
    ended = peers.start("x", "--state-dir", str(a.state_dir)).result()
    message = f"The state directory {a.state_dir} is in use by the daemon with process id {a.pid}\\. .*"
    _complains(ended, STATE, message)


def test_another_base_model_is_refused_on_both_ends(trio: Fleet, peers: Fleet) -> None:
    a, other = trio["a"], make_tiny_llama(peers.folder / "model", seed=5)
    x = peers.start("x", "--model", str(other), "--peers", a.address)
    hashes = "model_hash is [0-9a-f]{64} here and [0-9a-f]{64} there"
    _complains(
        x.result(),
        PEER,
        f"Peer [0-9a-f]{{8}} cannot train with this one: {hashes}\\. The base models differ: .*",
    )
    a.until_log(f" Peer [0-9a-f]{{8}} cannot train with this one: {hashes}\\. The base models differ: ")
    a.until(lambda reply: any("model_hash" in notice.text for notice in reply.notices))


def test_the_same_weights_with_another_config_or_tokenizer_are_refused_on_both_ends(
    trio: Fleet, peers: Fleet
) -> None:
    a, other = trio["a"], peers.folder / "model"
    shutil.copytree(peers.model, other)
    config = json.loads((other / "config.json").read_text())
    config["rope_parameters"] = {"rope_theta": 123.0, "rope_type": "default"}
    (other / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    x = peers.start("x", "--model", str(other), "--peers", a.address)
    theta = "config.json rope_parameters.rope_theta is (123.0 here and the default|the default here and 123.0) there"
    normaliser = r"tokenizer.json normalizer is (.* here and null|null here and .*) there"
    _complains(
        x.result(),
        PEER,
        f"Peer [0-9a-f]{{8}} cannot train with this one: {theta}; {normaliser}\\. The weights are the same, but .*",
    )
    a.until_log(f"cannot train with this one: {theta}; {normaliser}")


def test_another_run_is_refused_on_both_ends(trio: Fleet, peers: Fleet) -> None:
    a = trio["a"]
    x = peers.start("x", "--run", "mine", "--peers", a.address)
    message = "run is mine here and trio there\\. They belong to different runs: .*"
    _complains(x.result(), PEER, f"Peer [0-9a-f]{{8}} cannot train with this one: {message}")
    a.until_log("cannot train with this one: run is trio here and mine there\\.")


def test_another_setting_is_refused_with_both_values(trio: Fleet, peers: Fleet) -> None:
    x = peers.start("x", "--lr", "0.5", "--inner-steps", "7", "--peers", trio["a"].address)
    message = (
        "inner_steps is 7 here and 4 there; lr is 0.5 here and 0.001 there\\. Start both with the same .*"
    )
    _complains(x.result(), PEER, f"Peer [0-9a-f]{{8}} cannot train with this one: {message}")


def test_another_protocol_version_is_refused_on_both_ends(trio: Fleet, peers: Fleet) -> None:
    a = trio["a"]
    later = "from decad.daemon import admission, handshake\n"
    later += "admission.PROTOCOL_VERSION = handshake.PROTOCOL_VERSION = 99"
    x = peers.start("x", "--peers", a.address, before=later)
    message = f"protocol_version is 99 here and {PROTOCOL_VERSION} there\\. The two run different versions of decad: .*"
    _complains(x.result(), PEER, f"Peer [0-9a-f]{{8}} cannot train with this one: {message}")
    a.until_log(f"cannot train with this one: protocol_version is {PROTOCOL_VERSION} here and 99 there\\.")


def test_peers_that_cannot_be_reached(peers: Fleet) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        quick = "import decad.daemon.waiting as s\ns.REACH_S = 1.0"
        ended = peers.start("x", "--peers", address, before=quick).result()
    refused = f"{address} \\(connection refused: nobody listens there\\)"
    _complains(ended, NETWORK, f"None of --peers could be reached within 1 s: {refused}\\. Check .*")


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"\x16\x03\x01" + bytes(300),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 300,
    ],
    ids=["HTTP", "TLS", "broken HTTP/2"],
)
def test_a_daemon_survives_garbage_on_its_port(trio: Fleet, garbage: bytes) -> None:
    a = trio["a"]
    host, _, port = a.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as stranger:
        stranger.sendall(garbage)
    step = a.status().progress.step
    reply = a.until_step(step + 10)
    assert [n.state for n in reply.neighbours if n.name in ("b", "c")] == ["alive", "alive"]
    assert "Traceback" not in a.log


# -- checkpoints --------------------------------------------------------------------------------------------


def test_the_checkpoint_of_another_run(peers: Fleet) -> None:
    peers.start("x", "--steps", "2").result()
    settings = peers.start("x", "--lr", "0.5").result()
    _complains(settings, STATE, ".* run with other settings: lr is 0.5 now and was 0.0187\\. Start with .*")
    other = make_tiny_llama(peers.folder / "model", seed=5)
    model = peers.start("x", "--model", str(other)).result()
    _complains(model, STATE, f"The checkpoint in .*/x was trained from another base model than {other}\\. .*")


def test_a_stop_before_the_first_step_leaves_no_checkpoint(peers: Fleet) -> None:
    x = peers.start("x", "--min-peers", "1")
    x.until(lambda reply: reply.waiting_for == "neighbours (1 wanted, 0 here)")
    x.signal(signal.SIGTERM)
    assert x.result().code == 0
    assert peers.start("x", "--lr", "0.5", "--steps", "1").result().code == 0
