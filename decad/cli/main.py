"""The `decad` command. Nothing heavy is imported here: `decad status` must answer at once."""

from __future__ import annotations

import sys
import tomllib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from decad import __version__
from decad.cli.lab import lab
from decad.errors import ConfigError, DecadError, InternalError, first_cause
from decad.paths import default_state_dir


def _from_toml(key: str) -> Path | None:
    """What ./decad.toml says of a path: a machine that has its settings there need not be told again."""
    try:
        value = tomllib.loads(Path("decad.toml").read_text(encoding="utf-8")).get(key)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"decad.toml cannot be read: {error}.") from None
    return Path(value) if isinstance(value, str) else None


def _needed(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path:
    if value is None:
        raise click.MissingParameter(ctx=context, param=parameter)
    return value


STATE_DIR = click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=lambda: _from_toml("state_dir") or default_state_dir(),
    envvar="DECAD_STATE_DIR",
    show_default="of decad.toml, else $XDG_STATE_HOME/decad",
    help="State directory of the daemon to talk to.",
)
MODEL = click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=lambda: _from_toml("model"),
    callback=_needed,
    envvar="DECAD_MODEL",
    show_default="of decad.toml",
    help="The base model.",
)
CONFIG = click.option(
    "--config", type=click.Path(path_type=Path), help="Settings file.  [default: ./decad.toml]"
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="decad")
@click.option("--debug", is_flag=True, help="Show tracebacks and debug messages.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Fine-tune one language model together with other machines, without pooling data and without a server.

    Run `decad start` on each machine, then `decad status` to see what goes on.
    """
    context.obj = debug


_SETTINGS = (
    ("--run", "NAME", "Name of the run: peers of other runs are ignored.  [default: default]"),
    ("--model", "DIR", "The base model, a Hugging Face directory."),
    (
        "--data",
        "PATHS",
        "Files or directories, separated by commas (.txt, .jsonl, .csv, ...). They stay here.",
    ),
    ("--state-dir", "DIR", "Identity, checkpoints, control socket.  [default: $XDG_STATE_HOME/decad]"),
    ("--listen", "HOST:PORT", "Where peers may connect; port 0 picks a free one.  [default: 127.0.0.1:0]"),
    ("--peers", "HOST:PORT,...", "Peers to dial; one that is reachable is enough."),
    ("--name", "NAME", "Shown to the other peers.  [default: the id]"),
    ("--steps", "N", "Stop when the run's step reaches this.  [default: run until stopped]"),
    ("--min-peers", "N", "Wait for so many neighbours before the first step.  [default: 0]"),
    ("--interface", "NAME", "Network interface for mDNS, by name or address."),
    (
        "--overlay",
        "KIND",
        "full, ring, line, exponential, random:K, edges:A-B,B-C or edges:@FILE.  [default: full]",
    ),
    ("--task", "TASK", "causal-lm or classification; auto: as the model was made for.  [default: auto]"),
    ("--labels", "A,B,C", "A classifier's classes, in order.  [default: those that the model names]"),
    ("--blocks", "HOW", "layers, sublayers, a number, or NAME=PATTERN,...;NAME=...  [default: layers]"),
    ("--freeze", "PATTERNS", "Parameters that stay as they are, such as model.embed_tokens or **.bias."),
    ("--inner-steps", "N", "Steps of one block phase (R).  [default: 20]"),
    ("--order", "ORDER", "descending, ascending or shuffled.  [default: descending]"),
    ("--lr", "RATE", "Peak learning rate.  [default: 1e-4]"),
    ("--schedule", "KIND", "constant, linear:STEPS[:FLOOR] or cosine:STEPS[:FLOOR].  [default: constant]"),
    ("--warmup", "SHARE", "Part of each phase in which the learning rate rises.  [default: 0.25]"),
    ("--moments", "RULE", "rowwise, gossip, signal or none.  [default: rowwise]"),
    ("--encoding", "KIND", "fp32 or bf16-delta (half the bytes).  [default: fp32]"),
    ("--weight-decay", "RATE", "Decoupled weight decay.  [default: 0]"),
    ("--clip", "NORM", "Largest gradient norm of the block; 0 does not clip.  [default: 0]"),
    ("--beta1", "DECAY", "Of the first moment.  [default: 0.9]"),
    ("--beta2", "DECAY", "Of the second moment.  [default: 0.999]"),
    ("--eps", "X", "Adam's epsilon.  [default: 1e-8]"),
    ("--eval-every", "N", "Steps between evaluations; 0: every round.  [default: 0]"),
    ("--seq-len", "N", "Tokens of a sequence.  [default: 512, or what the model takes]"),
    ("--batch-size", "N", "Sequences of a step.  [default: 4]"),
    ("--micro-batch", "N", "Sequences of one pass; a batch is taken in such parts. 0: all.  [default: 0]"),
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
    ("--insecure", "Allow links beyond this machine though they are not encrypted."),
)


def _settings_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Flags of settings, of all if none is named, and of their file; values are checked with those of file and
    environment."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for name, help_ in reversed(_SWITCHES):
            if not names or name.partition("/")[0] in names:
                command = click.option(name, is_flag=True, default=None, help=help_)(command)
        for name, metavar, help_ in reversed(_SETTINGS):
            if not names or name in names:
                command = click.option(name, metavar=metavar, help=help_)(command)
        return CONFIG(command)

    return add


@cli.command()
@_settings_options()
@click.pass_obj
def start(debug: bool, /, config: Path | None, **flags: Any) -> None:
    """Run this machine's peer in the foreground until it is done or stopped.

    \b
    The first machine:  decad start --model DIR --data TEXT --listen 0.0.0.0:7700 --insecure
    Every other one:    the same, and --peers FIRST:7700 where mDNS does not find the others

    Settings come from decad.toml, then DECAD_* variables, then flags; later ones win. What all peers must
    agree on and this machine leaves unset is taken from the first peer it meets. Start again with the same
    --state-dir to continue.
    """
    from decad.cli.start import start_daemon

    start_daemon(flags, config, debug)


@cli.command()
@STATE_DIR
@JSON
@click.option("--watch", is_flag=True, help="Show it again every second until interrupted.")
def status(state_dir: Path, as_json: bool, watch: bool) -> None:
    """What the daemon is doing, with whom, and why it waits."""
    from decad.cli import client, render

    client.show(state_dir, render.as_json if as_json else render.status, watch=watch, clear=not as_json)


@cli.command()
@STATE_DIR
@JSON
def neighbours(state_dir: Path, as_json: bool) -> None:
    """The other peers: who they are, how they were found, how far apart we are."""
    from decad.cli import client, render

    client.show(state_dir, render.neighbours_json if as_json else render.neighbours)


cli.add_command(neighbours, "neighbors")


@cli.command()
@STATE_DIR
@click.option("--timeout", default=30.0, show_default=True, help="Seconds to wait for the daemon to end.")
def stop(state_dir: Path, timeout: float) -> None:
    """Stop the daemon: it saves the last completed step, says goodbye and exits."""
    from decad.cli import client

    client.stop(state_dir, timeout)


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
@STATE_DIR
@MODEL
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Of the written weights; auto: as in the base model.",
)
def export(directory: Path, state_dir: Path, model: Path, dtype: str) -> None:
    """Write the fine-tuned model to DIRECTORY, for transformers' from_pretrained.

    Works beside a running daemon, which saves its current step first, and without one.
    """
    from decad.cli.results import export_to

    export_to(directory, state_dir, model, dtype)


@cli.command()
@_settings_options(
    *("--model", "--task", "--labels", "--blocks", "--freeze", "--moments", "--encoding", "--seq-len"),
    *("--batch-size", "--micro-batch", "--gradient-checkpointing", "--device", "--dtype"),
)
@click.option(
    "--neighbours",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Whose copies bf16-delta keeps.",
)
@JSON
def blocks(config: Path | None, neighbours: int, as_json: bool, **flags: Any) -> None:
    """How a model is divided into blocks, what each sends a step, and the memory that training it takes.

    Settings come from where `decad start` takes them: decad.toml, then DECAD_* variables, then flags. Of the model,
    config.json alone is read: the weights need not be there. Nothing is trained and nobody is met.
    """
    from decad.cli.blocks import show_blocks

    show_blocks(flags, config, neighbours, as_json)


@cli.command("eval")
@MODEL
@click.option("--data", required=True, help="Files or directories, separated by commas.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=None,
    help="Evaluate this peer's fine-tuned weights instead of the base model's.",
)
@click.option("--base", is_flag=True, help="With --state-dir: the base model's, on what that peer holds out.")
@click.option(
    "--name",
    default=None,
    help="--name, or id, of the peer whose held-out split is meant.  [default: that of --state-dir]",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=None,
    help="Seed of the run, for the held-out split.  [default: that of --state-dir, else 0]",
)
@click.option(
    "--seq-len",
    type=click.IntRange(8),
    default=None,
    help="Tokens of a sequence.  [default: 512, or what the model takes]",
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Sequences of a batch."
)
@click.option(
    "--task",
    type=click.Choice(["auto", "causal-lm", "classification"]),
    default="auto",
    show_default=True,
    help="Of the base model; a checkpoint knows.",
)
@click.option("--labels", default="", help="A classifier's classes, of the base model; a checkpoint knows.")
@click.option(
    "--held-out",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the data that is held out.",
)
@click.option(
    "--batches", type=click.IntRange(1), default=16, show_default=True, help="At most so many batches."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@JSON
def evaluate(**options: Any) -> None:
    """Held-out loss of the base model, or of a peer's fine-tuned one; of a classifier, its accuracy too."""
    from decad.cli.results import evaluate_on

    evaluate_on(**options)


cli.add_command(lab)


@cli.group("checkpoints")
def checkpoints_() -> None:
    """What a peer has saved: list it, check it, go back to it.

    A checkpoint is saved at the end of each block phase and when the daemon stops. The last two are kept; the
    newest that is whole is the one that `decad start` continues from.
    """


@checkpoints_.command("list")
@STATE_DIR
@JSON
def list_(state_dir: Path, as_json: bool) -> None:
    """The checkpoints, the newest first: step, time, blocks trained so far, size, and whether all files are there.

    Looks at names and sizes alone; `decad checkpoints verify` reads every byte.
    """
    from decad.cli.checkpoints import show

    show(state_dir, as_json, thorough=False)


@checkpoints_.command()
@STATE_DIR
@JSON
def verify(state_dir: Path, as_json: bool) -> None:
    """Read every file of every checkpoint and compare its hash. Ends with exit code 6 if any is damaged.

    Works beside a running daemon, which goes on saving meanwhile.
    """
    from decad.cli.checkpoints import show

    show(state_dir, as_json, thorough=True)


@checkpoints_.command("restore")
@click.argument("step", type=int)
@STATE_DIR
def restore_(step: int, state_dir: Path) -> None:
    """Make the checkpoint of STEP the one that the next `decad start` continues from.

    The daemon must not run. What it replaces is kept until the next save: restore that step to go back. Among
    neighbours that trained on, a peer takes their step again.
    """
    from decad.cli.checkpoints import restore_step

    restore_step(state_dir, step)


@cli.group()
def model() -> None:
    """Base models."""


@model.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the written weights.",
)
def import_(file: Path, directory: Path, dtype: str) -> None:
    """Turn a GGUF FILE into a plain model DIRECTORY that decad can train."""
    from decad.cli.results import import_model

    import_model(file, directory, dtype)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes decad's commands and options in SHELL.

    \b
    bash:  decad completion bash > ~/.local/share/bash-completion/completions/decad
    zsh:   decad completion zsh > a file that your .zshrc sources
    fish:  decad completion fish > ~/.config/fish/completions/decad.fish
    """
    from decad.cli.completion import script

    click.echo(script(cli, shell))


def main() -> None:
    """Entry point: errors as one paragraph on stderr, and their exit code."""
    debug = "--debug" in sys.argv[1:]
    try:
        cli.main(prog_name="decad", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "decad"
        click.echo(f"decad: {error.format_message()} See `{command} --help`.", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        click.echo(f"decad: {error.format_message()}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, Exception, BaseExceptionGroup) as raised:
        if debug:
            traceback.print_exception(raised)
        cause = first_cause(raised)
        if isinstance(cause, KeyboardInterrupt):
            sys.exit(130)
        if not isinstance(cause, DecadError):
            where = "" if debug else " Run it again with `decad --debug` for the traceback."
            cause = InternalError(
                f"internal error: {type(cause).__name__}: {cause}.{where} Please report it."
            )
        click.echo(f"decad: {cause}", err=True)
        sys.exit(cause.exit_code)


if __name__ == "__main__":
    main()
