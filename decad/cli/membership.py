"""The commands by which a machine becomes a member. Nothing heavy is imported here."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from decad.cli.options import JSON, SECRET, STATE_DIR, settings_options


@click.command()
@STATE_DIR
@SECRET
@click.option(
    "--listen", metavar="HOST:PORT", help="Where to wait.  [default: where the daemon listens, a free port]"
)
@click.option("--yes", is_flag=True, help="Let in whoever has the code, without asking.")
@click.option(
    "--model/--no-model", "with_model", default=True, help="Give the base model too.  [default: model]"
)
@JSON
def invite(
    listen: str | None, state_dir: Path, secret: Path | None, yes: bool, with_model: bool, as_json: bool
) -> None:
    """Let another machine in: prints an address and a code, and waits for it.

    Whoever has the code becomes a member: it gets the run's secret and, if it lacks it, the base model. The code is
    good for one machine, ten minutes and three tries; Ctrl-C takes it back. Tell it by telephone, say: not by the way
    that you tell the address. The daemon must be running.
    """
    from decad.cli.invite import Invitation

    asyncio.run(Invitation(state_dir, secret, yes, with_model, as_json).run(listen))


@click.command()
@click.argument("address", metavar="HOST:PORT")
@settings_options()
@click.pass_obj
def join(debug: bool, /, address: str, config: Path | None, **flags: Any) -> None:
    """Join a run by invitation: HOST:PORT is what `decad invite` printed on a machine that is a member.

    Asks for the code, which is never an argument; a script gives it on standard input. Then this machine has the
    run's secret and the base model, and with --data it starts to train at once; without, the line to start it is
    printed. The other options are those of `decad start`.
    """
    from decad.cli.join import ask_code, start_line
    from decad.cli.join import join as join_run
    from decad.cli.start import start_daemon

    settings, peer = asyncio.run(join_run(address, flags, config, ask_code))
    if peer.data:
        start_daemon(settings, config, debug)
    else:
        click.echo(
            f"This machine is a member of the run. To train:\n\n    {start_line(settings)} --data YOUR_TEXT"
        )
