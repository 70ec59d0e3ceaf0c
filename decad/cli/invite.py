"""`decad invite`: another machine becomes a member by a code that people read to each other."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path

import click

from decad._proto import control_pb2 as pb
from decad.cli.client import get_status
from decad.cli.options import tell
from decad.config import split_address
from decad.errors import OperatorError
from decad.membership.identity import load, short_id
from decad.membership.interfaces import choose_interfaces, present_interfaces
from decad.trust.handover import Handover, as_text, files_of
from decad.trust.inviting import MOST_TRIES, VALID_S, Guest, Inviter
from decad.trust.roster import Roster, pronounce
from decad.trust.secret import read_secrets, secret_file


class Invitation:
    """`decad invite`, beside the running daemon of ``state_dir``."""

    def __init__(
        self, state_dir: Path, secret: Path | None, yes: bool, with_model: bool, as_json: bool
    ) -> None:
        self._state_dir, self._yes, self._json = state_dir, yes, as_json
        status = get_status(state_dir)
        if not status.listen:
            raise OperatorError(
                "The daemon is still loading the model. Invite once `decad status` shows that it trains."
            )
        path = secret_file(secret, state_dir)
        self._secrets = read_secrets(path) if path.exists() else None
        self.host = _reachable_host(status)
        self._directory = Path(status.model) if with_model and status.model else None
        if self._directory:
            tell(f"hashing the model in {self._directory}")
        self.handover = Handover(
            run=status.run,
            fingerprint=status.fingerprint,
            loading=dict(status.loading),
            secrets=as_text(self._secrets),
            admins=self._secrets.admins if self._secrets else (),
            port=split_address(status.listen)[1],
            peers=tuple(n.address for n in status.neighbours if n.state == "alive" and n.address)[:16],
            model=files_of(self._directory) if self._directory else (),
        )

    async def run(self, listen: str | None) -> None:
        """Wait for one joiner. Raises DecadError."""
        host, port = split_address(listen) if listen else (self.host, 0)
        inviter = Inviter(self.handover, self._directory, self._agrees, self._admit, tell)
        port = await inviter.listen(host, port)
        self._show([f"{address}:{port}" for address in _addresses(host)], inviter.code)
        await inviter.run()
        if not self._json:
            click.echo("The new member has everything it needs. The invitation is used up.")

    def _show(self, addresses: list[str], code: str) -> None:
        if self._json:
            click.echo(
                json.dumps({"addresses": addresses, "code": code, "valid_s": VALID_S, "tries": MOST_TRIES})
            )
            return
        what = "" if self.handover.secrets else " It will need a certificate of your authority too."
        click.echo(
            f"An invitation to the run {self.handover.run}, for one machine, within {VALID_S / 60:.0f} minutes.{what} "
            "On that machine type\n\n"
            f"    decad join {addresses[0]} --data ITS_TEXT\n\n"
            f"and when it asks, the code\n\n    {code}\n"
        )
        if addresses[1:]:
            click.echo(f"This machine is also at {', '.join(addresses[1:])}.")
        click.echo("Waiting; Ctrl-C takes the invitation back.")

    async def _agrees(self, guest: Guest) -> bool:
        who = f"{guest.name} ({short_id(guest.peer)})" if guest.name else f"peer {short_id(guest.peer)}"
        if self._json:
            click.echo(json.dumps({"peer": guest.peer, "address": guest.address, "words": guest.words}))
        else:
            click.echo(f"{who} at {guest.address} has the code. Both screens show: {guest.words}")
        if self._yes:
            return True
        click.echo(
            "Does the other screen show the same words, and is that machine to be a member? [y/N] ", nl=False
        )
        return (await _line()).strip().lower() in ("y", "yes")

    def _admit(self, peer: str) -> None:
        """Where only listed peers take part, the guest is listed; by an admin, for all members."""
        roster, me = Roster(self._state_dir), load(self._state_dir)
        admins = frozenset(self._secrets.admins if self._secrets else ())
        if me is not None and me.peer_id in admins:
            roster.learn([pronounce(me, peer, True)], admins)
        elif roster.only_listed:
            roster.allow(peer)


def _reachable_host(status: pb.StatusReply) -> str:
    host = split_address(status.listen)[0]
    if status.insecure or "no secret" in status.protection.lower():
        raise OperatorError(
            "This run has no secret: whoever is to join would be no more than anybody. Stop the daemon, run "
            "`decad secret new`, start it again, and invite then."
        )
    return host


def _addresses(host: str) -> list[str]:
    """Where others reach this machine, for people to type."""
    if host not in ("0.0.0.0", "::"):
        return [f"[{host}]" if ":" in host else host]
    with suppress(OperatorError):
        return list(choose_interfaces("", host, present_interfaces()).advertised)
    return ["127.0.0.1"]


async def _line() -> str:
    """One line of standard input, without a thread that nothing could interrupt."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(sys.stdin.fileno(), ready.set)
    except PermissionError:  # a file, which is always ready
        return sys.stdin.readline()
    try:
        await ready.wait()
        return sys.stdin.readline()
    finally:
        loop.remove_reader(sys.stdin.fileno())
