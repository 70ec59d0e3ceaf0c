"""The `decad` command. Nothing heavy is imported here: `decad status` must answer at once."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import click

from decad import __version__
from decad.cli.lab import lab
from decad.cli.membership import invite, join
from decad.cli.options import DATA, JSON, MODEL, PATH, STATE_DIR, settings_options
from decad.cli.peers import peers
from decad.cli.secret import secret_group
from decad.cli.tune import tune
from decad.errors import DecadError, InternalError, first_cause


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="decad")
@click.option("--debug", is_flag=True, help="Show tracebacks and debug messages.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Fine-tune one language model together with other machines, without pooling data and without a server.

    Run `decad start` on each machine, then `decad status` to see what goes on.
    """
    context.obj = debug


@cli.command()
@settings_options()
@click.pass_obj
def start(debug: bool, /, config: Path | None, **flags: Any) -> None:
    """Run this machine's peer in the foreground until it is done or stopped.

    \b
    The first machine:  decad start --model DIR --data TEXT --listen 0.0.0.0:7700
    Every other one:    the same, and --peers FIRST:7700 where mDNS does not find the others

    With the run's secret (`decad secret new`) other machines can link; without one, programs on this machine alone.

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
@STATE_DIR
@JSON
def settle(state_dir: Path, as_json: bool) -> None:
    """End the run of all peers with one model: training stops soon, and blocks are mixed until all agree.

    A run whose schedule falls to zero does so by itself (`decad start --settle`).
    """
    from decad.cli import client

    client.settle(state_dir, as_json)


@cli.command()
@click.argument("directory", type=PATH)
@STATE_DIR
@MODEL
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Of the written weights; auto: as in the base model.",
)
@click.option("--adapter", is_flag=True, help="Of a run with --blocks none: the adapters alone, for peft.")
def export(directory: Path, state_dir: Path, model: Path, dtype: str, adapter: bool) -> None:
    """Write the fine-tuned model to DIRECTORY, for transformers' from_pretrained.

    Works beside a running daemon, which saves its current step first, and without one.
    """
    from decad.cli.results import export_to

    export_to(directory, state_dir, model, dtype, adapter)


@cli.command()
@settings_options(
    *("--model", "--task", "--labels", "--blocks", "--freeze", "--adapters", "--moments", "--encoding"),
    *("--seq-len", "--batch-size", "--micro-batch", "--gradient-checkpointing", "--device", "--dtype"),
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
@DATA
@click.option(
    "--state-dir",
    type=PATH,
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


cli.add_command(tune)
cli.add_command(invite)
cli.add_command(join)
cli.add_command(lab)
cli.add_command(secret_group)
cli.add_command(peers)


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
@click.argument("file", type=PATH)
@click.argument("directory", type=PATH)
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
