"""The `decad` command. Nothing heavy is imported here: `decad status` must answer at once."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from decad import __version__
from decad.errors import DecadError, InternalError
from decad.paths import default_state_dir

STATE_DIR = click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=default_state_dir,
    envvar="DECAD_STATE_DIR",
    show_default="$XDG_STATE_HOME/decad",
    help="State directory of the daemon to talk to.",
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


def _settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """The flags of `decad start`, one for each setting; values are checked with those of file and environment."""
    flags: list[tuple[str, dict[str, Any]]] = [
        ("--run", {"help": "Name of the run: peers of other runs are ignored.  [default: default]"}),
        ("--model", {"help": "Directory of the base model (Hugging Face format)."}),
        (
            "--data",
            {"help": "Text files or directories, separated by commas. They never leave this machine."},
        ),
        ("--state-dir", {"help": "Identity, checkpoints, control socket.  [default: $XDG_STATE_HOME/decad]"}),
        ("--listen", {"help": "host:port for links from peers.  [default: 127.0.0.1:0]"}),
        ("--peers", {"help": "host:port of peers to dial, separated by commas; one is enough."}),
        ("--name", {"help": "Shown to the other peers.  [default: the id]"}),
        ("--steps", {"help": "Stop when the run's step reaches this.  [default: run until stopped]"}),
        ("--min-peers", {"help": "Wait for so many neighbours before the first step.  [default: 0]"}),
        ("--mdns/--no-mdns", {"default": None, "help": "Find peers by multicast DNS.  [default: mdns]"}),
        ("--interface", {"help": "Network interface for mDNS, by name or address."}),
        (
            "--insecure",
            {"is_flag": True, "default": None, "help": "Listen beyond this machine without encryption."},
        ),
        ("--overlay", {"help": "full, ring, exponential or edges:A-B,B-C.  [default: full]"}),
        ("--inner-steps", {"help": "Steps of one block phase (R).  [default: 20]"}),
        ("--order", {"help": "descending, ascending or shuffled.  [default: descending]"}),
        ("--lr", {"help": "Peak learning rate.  [default: 1e-4]"}),
        (
            "--schedule",
            {"help": "constant, linear:STEPS[:FLOOR], cosine:STEPS[:FLOOR].  [default: constant]"},
        ),
        ("--moments", {"help": "rowwise, gossip, signal or none.  [default: rowwise]"}),
        ("--encoding", {"help": "fp32 or bf16-delta (half the bytes).  [default: fp32]"}),
        ("--weight-decay", {"help": "Decoupled weight decay.  [default: 0]"}),
        ("--clip", {"help": "Largest gradient norm of the block; 0 does not clip.  [default: 0]"}),
        ("--beta1", {"help": "Decay of the first moment.  [default: 0.9]"}),
        ("--beta2", {"help": "Decay of the second moment.  [default: 0.999]"}),
        ("--eps", {"help": "Adam's epsilon.  [default: 1e-8]"}),
        ("--eval-every", {"help": "Steps between evaluations; 0: every round.  [default: 0]"}),
        ("--seq-len", {"help": "Tokens of a sequence.  [default: 512]"}),
        ("--batch-size", {"help": "Sequences of a step.  [default: 4]"}),
        ("--seed", {"help": "Of the visiting order and the data's order.  [default: 0]"}),
        ("--device", {"help": "auto, cpu, cuda, cuda:N or mps.  [default: auto]"}),
        ("--dtype", {"help": "auto, float32 or bfloat16.  [default: auto]"}),
        ("--threads", {"help": "Compute threads; 0: torch's choice.  [default: 0]"}),
        ("--held-out", {"help": "Share of the data kept for evaluation.  [default: 0.1]"}),
        ("--eval-batches", {"help": "At most so many batches in an evaluation.  [default: 16]"}),
    ]
    for name, options in reversed(flags):
        command = click.option(name, **options)(command)
    return command


@cli.command()
@click.option("--config", type=click.Path(path_type=Path), help="Settings file.  [default: ./decad.toml]")
@_settings_options
@click.pass_obj
def start(debug: bool, /, config: Path | None, **flags: Any) -> None:
    """Run this machine's peer in the foreground until it is done or stopped.

    \b
    The first machine:   decad start --model DIR --data notes.txt --listen 0.0.0.0:7700 --insecure
    Every other one:     decad start --model DIR --data mine.txt --peers first:7700

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
@click.option(
    "--model", type=click.Path(path_type=Path), required=True, envvar="DECAD_MODEL", help="The base model."
)
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


@cli.command("eval")
@click.option(
    "--model", type=click.Path(path_type=Path), required=True, envvar="DECAD_MODEL", help="The base model."
)
@click.option("--data", required=True, help="Text files or directories, separated by commas.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=None,
    help="Evaluate this peer's fine-tuned weights instead of the base model's.",
)
@click.option("--name", default="", help="--name of the peer whose held-out split is meant.")
@click.option("--seed", default=0, show_default=True, help="Seed of the run, for the held-out split.")
@click.option("--seq-len", default=512, show_default=True)
@click.option("--batch-size", default=4, show_default=True)
@click.option("--held-out", default=0.1, show_default=True, help="Share of the data that is held out.")
@click.option("--batches", default=16, show_default=True, help="At most so many batches.")
@click.option("--device", default="auto", show_default=True)
@JSON
def evaluate(**options: Any) -> None:
    """Held-out loss of the base model, or of a peer's fine-tuned one, on text files."""
    from decad.cli.results import evaluate_on

    evaluate_on(**options)


@cli.group()
def model() -> None:
    """Base models."""


@model.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
def import_(file: Path, directory: Path, dtype: str) -> None:
    """Turn a GGUF FILE into a plain model DIRECTORY that decad can train."""
    from decad.cli.results import import_model

    import_model(file, directory, dtype)


def main() -> None:
    """Entry point: errors as one paragraph on stderr, and their exit code."""
    debug = "--debug" in sys.argv[1:]
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
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
        cause = _first(raised)
        if isinstance(cause, KeyboardInterrupt):
            sys.exit(130)
        if not isinstance(cause, DecadError):
            where = "" if debug else " Run it again with `decad --debug` for the traceback."
            cause = InternalError(
                f"internal error: {type(cause).__name__}: {cause}.{where} Please report it."
            )
        click.echo(f"decad: {cause}", err=True)
        sys.exit(cause.exit_code)


def _first(error: BaseException) -> BaseException:
    """The first of decad's own errors in a group, else the first of all."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_first(inner) for inner in error.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, DecadError)), leaves[0])


if __name__ == "__main__":
    main()
