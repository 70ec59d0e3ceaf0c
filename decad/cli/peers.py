"""`decad peers`: who may take part, beyond having the run's secret."""

from __future__ import annotations

import json
from pathlib import Path

import click

from decad.cli.options import JSON, SECRET, STATE_DIR
from decad.errors import ConfigError, NoDaemonError


@click.group()
def peers() -> None:
    """Who may take part, beyond having the run's secret.

    A running daemon heeds a change within a second. An admin (the machine that made the run's secret) decides for
    all members; any other machine for itself. Whoever has the secret can come again under a new id: to keep
    somebody out for good, change the secret too (decad secret rotate), or list the members (decad peers only-listed).
    """


@peers.command("list")
@STATE_DIR
@JSON
def list_(state_dir: Path, as_json: bool) -> None:
    """Whom this machine allows and denies."""
    from decad.trust.roster import Roster

    roster = Roster(state_dir)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "only_listed": roster.only_listed,
                    "allowed": sorted(roster.allowed),
                    "denied": sorted(roster.denied),
                }
            )
        )
        return
    click.echo(
        "Only listed peers take part." if roster.only_listed else "All members take part, but the denied."
    )
    for word, ids in (("allowed", roster.allowed), ("denied", roster.denied)):
        for peer in sorted(ids):
            click.echo(f"{word:<8} {peer}")


@peers.command()
@click.argument("peer")
@STATE_DIR
@SECRET
def allow(peer: str, state_dir: Path, secret: Path | None) -> None:
    """Let PEER take part: its id, or the first 8 or more characters of one that this machine knows."""
    _judge(peer, state_dir, secret, allowed=True)


@peers.command()
@click.argument("peer")
@STATE_DIR
@SECRET
def deny(peer: str, state_dir: Path, secret: Path | None) -> None:
    """Keep PEER out: its links are closed at once. PEER: its id, or 8 or more of its first characters."""
    _judge(peer, state_dir, secret, allowed=False)


@peers.command("only-listed")
@click.option("--off", is_flag=True, help="Let all members take part again, but the denied.")
@STATE_DIR
def only_listed(off: bool, state_dir: Path) -> None:
    """Let those take part only that are allowed by name (decad peers allow); on this machine."""
    from decad.trust.roster import Roster

    roster = Roster(state_dir)
    roster.list_only(not off)
    click.echo(
        "All members take part again, but the denied."
        if off
        else f"Only listed peers take part now: {len(roster.allowed - roster.denied)} on the list."
    )


def _judge(named_peer: str, state_dir: Path, secret: Path | None, *, allowed: bool) -> None:
    from decad.membership.identity import load
    from decad.trust.roster import Roster, matching, pronounce
    from decad.trust.secret import read_secrets, secret_file

    roster = Roster(state_dir)
    peer = matching([*_known(state_dir), *roster.allowed, *roster.denied], named_peer)
    (roster.allow if allowed else roster.deny)(peer)
    path = secret_file(secret, state_dir)
    try:
        admins = frozenset(read_secrets(path).admins) if path.exists() else frozenset()
    except ConfigError as error:
        raise ConfigError(f"On this machine it is done, and not told to the others. {error}") from None
    me = load(state_dir)
    word = "allowed" if allowed else "denied"
    if me is not None and me.peer_id in admins:
        roster.learn([pronounce(me, peer, allowed)], admins)
        click.echo(f"Peer {peer} is {word}, here and at every member that the run's daemons reach.")
    else:
        click.echo(f"Peer {peer} is {word} on this machine. An admin of the run can decide for all.")


def _known(state_dir: Path) -> list[str]:
    from decad.cli.client import get_status

    try:
        return [neighbour.peer_id for neighbour in get_status(state_dir).neighbours]
    except NoDaemonError:
        return []
