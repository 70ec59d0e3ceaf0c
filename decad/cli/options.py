"""Options that several commands have; those of `decad start` are the settings of a peer."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from decad.errors import ConfigError
from decad.paths import default_state_dir, user_path


class UserPath(click.Path):
    """A path that may begin with ~, which no shell has expanded behind an equals sign or in a variable."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return user_path(os.fsdecode(super().convert(value, param, ctx)))


PATH = UserPath()


def _from_toml(key: str) -> Any:
    """What ./decad.toml says: a machine that has its settings there need not be told again."""
    try:
        return tomllib.loads(Path("decad.toml").read_text(encoding="utf-8")).get(key)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"decad.toml cannot be read: {error}.") from None


def _path_from_toml(key: str) -> str | None:
    value = _from_toml(key)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{key} (in decad.toml) = {value!r} is not accepted: it should be a path.")
    return value or None


def _data_from_toml() -> str | None:
    value = _from_toml("data")
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _needed(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    if value is None:
        raise click.MissingParameter(ctx=context, param=parameter)
    return value


STATE_DIR = click.option(
    "--state-dir",
    type=PATH,
    default=lambda: _path_from_toml("state_dir") or default_state_dir(),
    envvar="DECAD_STATE_DIR",
    show_default="of decad.toml, else $XDG_STATE_HOME/decad",
    help="State directory of the daemon to talk to.",
)
SECRET = click.option(
    "--secret",
    type=PATH,
    default=lambda: _path_from_toml("secret"),
    envvar="DECAD_SECRET",
    show_default="of decad.toml, else secret in the state directory",
    help="The file of the run's secret.",
)
MODEL = click.option(
    "--model",
    type=PATH,
    default=lambda: _path_from_toml("model"),
    callback=_needed,
    envvar="DECAD_MODEL",
    show_default="of decad.toml",
    help="The base model.",
)
DATA = click.option(
    "--data",
    default=_data_from_toml,
    callback=_needed,
    envvar="DECAD_DATA",
    show_default="of decad.toml",
    help="Files or directories, separated by commas.",
)
CONFIG = click.option("--config", type=PATH, help="Settings file.  [default: ./decad.toml]")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


_SETTINGS = (
    ("--run", "NAME", "Name of the run: peers of other runs are ignored.  [default: default]"),
    ("--model", "DIR", "The base model, a Hugging Face directory."),
    (
        "--data",
        "PATHS",
        "Files or directories, separated by commas (.txt, .jsonl, .csv, ...). They stay here.",
    ),
    ("--state-dir", "DIR", "Identity, checkpoints, control socket.  [default: $XDG_STATE_HOME/decad]"),
    (
        "--secret",
        "FILE",
        "The run's secret: whoever has it is a member.  [default: secret in the state directory]",
    ),
    ("--tls-ca", "FILE", "Your site's certificate authority, in the place of a secret."),
    ("--tls-cert", "FILE", "This machine's certificate of it."),
    ("--tls-key", "FILE", "The key of that certificate."),
    ("--tls-name", "NAME", "DNS name that the certificates of all members have.  [default: decad]"),
    (
        "--listen",
        "HOST:PORT",
        "Where peers may connect; port 0 picks a free one.  [default: 0.0.0.0:0; 127.0.0.1:0 without a secret]",
    ),
    ("--peers", "HOST:PORT,...", "Peers to dial; one that is reachable is enough."),
    ("--name", "NAME", "Shown to the other peers.  [default: the id]"),
    ("--steps", "N", "Stop when the run's step reaches this.  [default: run until stopped]"),
    ("--min-peers", "N", "Wait for so many neighbours before the first step.  [default: 0]"),
    ("--interface", "NAME", "Network interface for mDNS, by name or address."),
    (
        "--overlay",
        "KIND",
        "full, ring, line, exponential, random:K, erdos:P, edges:A-B,B-C or edges:@FILE.  [default: full]",
    ),
    ("--task", "TASK", "causal-lm or classification; auto: as the model was made for.  [default: auto]"),
    ("--labels", "A,B,C", "A classifier's classes, in order.  [default: those that the model names]"),
    (
        "--blocks",
        "HOW",
        "layers, sublayers, a number, NAME=PATTERN,...;..., or none (adapters alone).  [default: layers]",
    ),
    ("--freeze", "PATTERNS", "Parameters that stay as they are, such as model.embed_tokens or **.bias."),
    ("--inner-steps", "N", "Steps of one block phase (R).  [default: 20]"),
    ("--order", "ORDER", "descending, ascending or shuffled.  [default: descending]"),
    ("--lr", "RATE", "Peak learning rate; 0: what suits the model's width.  [default: 0]"),
    ("--schedule", "KIND", "constant, linear:STEPS[:FLOOR] or cosine:STEPS[:FLOOR].  [default: constant]"),
    ("--warmup", "SHARE", "Part of each phase in which the learning rate rises.  [default: 0.25]"),
    (
        "--settle",
        "STEPS",
        "Mixing alone, when the schedule is at its end: steps of each block; 0: none.  [default: 8]",
    ),
    ("--adapters", "RANK", "Low-rank adapters, trained and mixed beside each block; 0: none.  [default: 0]"),
    ("--adapter-lr", "RATE", "Peak learning rate of the adapters; 0: what suits the width.  [default: 0]"),
    ("--moments", "RULE", "rowwise, gossip, signal or none.  [default: rowwise]"),
    ("--encoding", "KIND", "fp32 or bf16-delta (half the bytes).  [default: fp32]"),
    (
        "--robust",
        "RULE",
        "none, clip, median or trimmed: what is done against neighbours that are far off.  [default: none]",
    ),
    ("--weight-decay", "RATE", "Decoupled weight decay.  [default: 0]"),
    ("--clip", "NORM", "Largest gradient norm of the block; 0 does not clip.  [default: 0]"),
    ("--beta1", "DECAY", "Of the first moment.  [default: 0.9]"),
    ("--beta2", "DECAY", "Of the second moment.  [default: 0.999]"),
    ("--eps", "X", "Adam's epsilon.  [default: 1e-8]"),
    ("--eval-every", "N", "Steps between evaluations; 0: every round.  [default: 0]"),
    ("--seq-len", "N", "Tokens of a sequence.  [default: 512, or what the model takes]"),
    ("--batch-size", "N", "Sequences of a step.  [default: 4]"),
    ("--micro-batch", "N", "Sequences of one pass; a batch is taken in such parts. 0: all.  [default: 0]"),
    (
        "--dp-noise",
        "SIGMA",
        "Differential privacy: noise on each gradient, in clipping norms; 0: none.  [default: 0]",
    ),
    ("--dp-clip", "NORM", "With --dp-noise: the largest gradient norm of one example.  [default: 1]"),
    ("--seed", "N", "Of the visiting order and the data's order.  [default: 0]"),
    ("--device", "NAME", "auto, cpu, cuda, cuda:N or mps.  [default: auto]"),
    ("--dtype", "NAME", "auto, float32 or bfloat16.  [default: auto]"),
    ("--threads", "N", "Compute threads; 0: torch's choice.  [default: 0]"),
    ("--max-bad", "SHARE", "Stop if more of the data's bytes than this cannot be used.  [default: 0.05]"),
    ("--held-out", "SHARE", "Share of the data kept for evaluation.  [default: 0.1]"),
    ("--eval-batches", "N", "At most so many batches in an evaluation.  [default: 16]"),
)
_SWITCHES = (
    ("--mdns/--no-mdns", "Find peers by multicast DNS.  [default: mdns]"),
    (
        "--gradient-checkpointing/--no-gradient-checkpointing",
        "Keep less in memory and compute it twice.  [default: no]",
    ),
    ("--insecure", "Without a secret, allow links beyond this machine all the same: anybody is a peer."),
)


_LISTS = ("--data", "--peers", "--labels", "--freeze")
"""They may be given several times, or once with commas."""


def _none_if_empty(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> Any:
    return value or None


def settings_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Flags of settings, of all if none is named, and of their file; values are checked with those of file and
    environment."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for name, help_ in reversed(_SWITCHES):
            if not names or name.partition("/")[0] in names:
                command = click.option(name, is_flag=True, default=None, help=help_)(command)
        for name, metavar, help_ in reversed(_SETTINGS):
            if not names or name in names:
                several = name in _LISTS
                or_none = _none_if_empty if several else None
                command = click.option(name, metavar=metavar, help=help_, multiple=several, callback=or_none)(
                    command
                )
        return CONFIG(command)

    return add


def tell(text: str) -> None:
    """What goes on, for people; standard output is for results."""
    click.echo(f"{text[:1].upper()}{text[1:]}.", err=True)
