"""`decad join`: this machine becomes a member by an invitation. No grpc here: the daemon that follows brings it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from decad.cli.options import tell
from decad.config import PeerConfig, split_address
from decad.errors import ConfigError
from decad.membership.identity import load_or_create
from decad.settings import load_settings
from decad.trust.code import typed
from decad.trust.handover import Handover
from decad.trust.joining import Joiner
from decad.trust.secret import RunSecrets, read_secrets, secret_file, write_secrets


async def join(
    address: str,
    flags: Mapping[str, Any],
    config: Path | None,
    read_code: Callable[[], str],
) -> tuple[dict[str, Any], PeerConfig]:
    """Become a member. Returns settings for `decad start`, and those that were given. Raises DecadError."""
    _, peer = load_settings(flags, config, needed=())
    if peer.insecure:
        raise ConfigError(
            "--insecure and joining by invitation exclude each other: the inviter gives a secret."
        )
    secret = secret_file(peer.secret, peer.state_dir)
    existing = read_secrets(secret) if secret.exists() else None
    joiner = Joiner(address, load_or_create(peer.state_dir), peer.name)
    code = typed(read_code())
    try:
        agreed = await joiner.prove(code)
        tell(f"The code is right. Both screens show: {agreed.words}. Waiting for the inviter's yes")
        handover = await joiner.handover()
        _become_member(handover.membership(), existing, secret, peer)
        directory = peer.model or peer.state_dir / "model"
        if handover.model:
            await _fetch_model(joiner, handover, directory)
        elif not peer.model:
            raise ConfigError("You are a member now, but the inviter gives no model. Start with --model DIR.")
    finally:
        await joiner.close()
    host = split_address(address)[0]
    peers = [_joined(host, handover.port), *(a for a in handover.peers if a != _joined(host, handover.port))]
    settings = {"run": handover.run, **handover.loading, "model": str(directory), "peers": tuple(peers)}
    return {**settings, **{k: v for k, v in flags.items() if v is not None}}, peer


def _become_member(
    given: RunSecrets | None, existing: RunSecrets | None, path: Path, peer: PeerConfig
) -> None:
    if given is None:
        if not peer.tls_ca:
            raise ConfigError(
                "This run rests on certificates of the inviter's authority, and no secret can be given. Get one for "
                "this machine, and start with --tls-ca, --tls-cert and --tls-key."
            )
        return
    if existing is None:
        write_secrets(path, given, replace=False)
    elif not set(given.secrets) & set(existing.secrets):
        raise ConfigError(
            f"There is a secret of another run in {path}. Join with another --state-dir, so that this machine can be a "
            "member of both; or move the file away."
        )


async def _fetch_model(joiner: Joiner, handover: Handover, directory: Path) -> None:
    whole = sum(file.size for file in handover.model)
    came = last = 0

    def show(name: str, size: int) -> None:
        nonlocal came, last
        came += size
        if sys.stderr.isatty() or came - last >= max(whole // 10, 1):
            last = came
            end = "\r" if sys.stderr.isatty() else "\n"
            click.echo(
                f"fetching the model: {came / 1e6:.0f} of {whole / 1e6:.0f} MB, {name}{end}",
                nl=False,
                err=True,
            )

    fetched = await joiner.fetch(handover, directory, show)
    if sys.stderr.isatty() and fetched:
        click.echo(err=True)
    tell(
        f"The model is in {directory}, all hashes as the inviter's"
        + ("" if fetched else "; it was there already")
    )


def ask_code() -> str:
    """At the prompt of a terminal, else the first line of standard input: never an argument, which a shell keeps."""
    if sys.stdin.isatty():
        return str(click.prompt("Code of the invitation", err=True))
    return sys.stdin.readline()


def start_line(settings: Mapping[str, Any]) -> str:
    """What starts the daemon with these settings."""
    words = ["decad", "start"]
    for key, value in settings.items():
        flag = f"--{key.replace('_', '-')}"
        words += (
            [flag] if value is True else [flag, ",".join(value) if isinstance(value, tuple) else str(value)]
        )
    return shlex.join(words)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
