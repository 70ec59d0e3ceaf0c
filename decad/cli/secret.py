"""`decad secret`: make, look at and change the secret that makes a machine a member of its run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from decad.cli.options import JSON, SECRET, STATE_DIR


@click.group("secret")
def secret_group() -> None:
    """The run's secret: whoever has it is a member of the run.

    `decad secret new` on one machine; the others get it by `decad invite` and `decad join`, or as a copy of the file by
    a way that you trust, such as scp -p. The first secret of the file is the machine's own; those below it are accepted
    too.
    """


@secret_group.command()
@SECRET
@STATE_DIR
def new(secret: Path | None, state_dir: Path) -> None:
    """Make the secret of a new run. Once, on one machine."""
    from decad.membership.identity import load_or_create
    from decad.trust.secret import RunSecrets, new_secret, secret_file, write_secrets

    path = secret_file(secret, state_dir)
    made = new_secret()
    write_secrets(path, RunSecrets((made,), (load_or_create(state_dir).peer_id,)), replace=False)
    click.echo(
        f"Made the secret {_fingerprint(made)} in {path}. `decad start` uses it, and then accepts links from other "
        "machines that have it. This machine's peer is the run's admin: its `decad peers deny` binds all members.\n"
        "Let another machine in: start the daemon, then run `decad invite`."
    )


@secret_group.command()
@SECRET
@STATE_DIR
def rotate(secret: Path | None, state_dir: Path) -> None:
    """Make a new secret, and go on accepting the old one until `decad secret retire`.

    A running daemon takes it up by itself. Give the file to the other members by a way that does not depend on the
    old secret. When all have it, run `decad secret retire` on each: from then on the old one opens nothing.
    """
    from decad.trust.secret import MOST_SECRETS, new_secret, read_secrets, secret_file, write_secrets

    path = secret_file(secret, state_dir)
    kept = read_secrets(path)
    made = new_secret()
    secrets = (made, *kept.secrets)[:MOST_SECRETS]
    write_secrets(path, kept._replace(secrets=secrets), replace=True)
    click.echo(
        f"Made the secret {_fingerprint(made)} in {path}; {_listed(secrets[1:])} accepted too, until "
        "`decad secret retire`."
    )


@secret_group.command()
@SECRET
@STATE_DIR
def retire(secret: Path | None, state_dir: Path) -> None:
    """Accept the newest secret alone. A running daemon closes the links that rest on older ones."""
    from decad.trust.secret import read_secrets, secret_file, write_secrets

    path = secret_file(secret, state_dir)
    kept = read_secrets(path)
    newest, *older = kept.secrets
    if not older:
        click.echo(f"{path} has one secret, {_fingerprint(newest)}: there is nothing to retire.")
        return
    write_secrets(path, kept._replace(secrets=(newest,)), replace=True)
    click.echo(f"Only the secret {_fingerprint(newest)} is accepted now; {_listed(older)} no longer.")


@secret_group.command()
@SECRET
@STATE_DIR
@JSON
def show(secret: Path | None, state_dir: Path, as_json: bool) -> None:
    """The fingerprints of the file's secrets, by which people can compare them; never the secrets."""
    from decad.trust.secret import read_secrets, secret_file

    path = secret_file(secret, state_dir)
    prints = [_fingerprint(kept) for kept in read_secrets(path).secrets]
    if as_json:
        click.echo(json.dumps({"file": str(path), "own": prints[0], "accepted": prints[1:]}))
        return
    click.echo(f"{prints[0]}  this machine's own, in {path}")
    for older in prints[1:]:
        click.echo(f"{older}  accepted too, until `decad secret retire`")


def _fingerprint(kept: bytes) -> str:
    from decad.trust.authority import Authority

    return Authority(kept).fingerprint


def _listed(older: Sequence[bytes]) -> str:
    return f"{', '.join(map(_fingerprint, older))} {'is' if len(older) == 1 else 'are'}"
