"""The file of a run's secret: whoever has it is a member. No server, no list: the secret makes the certificates.

The first secret of the file is this machine's own; those below it are accepted too, while the members change over to a
new one. The file also names the run's admins, whose verdicts on peers bind all (`decad.trust.roster`). A secret has
256 random bits, since a server shows its certificate before it has seen one: whoever records that may guess at the
secret, and must not be able to.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import secrets
import stat
from pathlib import Path
from typing import NamedTuple

from decad.errors import ConfigError
from decad.state.files import make_directory, sync_directory, write_file

SECRET_BYTES = 32
SECRET_FILE = "secret"
"""Name of the file within the state directory, where `decad start` looks if no other is named."""
MOST_SECRETS = 8
"""In one file: the overlaps of several changes."""
MAX_FILE_BYTES = 1 << 16
_TAG, _ADMIN = "decad-secret-1", "decad-admin-1"
_CHECK_BYTES = 4
_HEAD = """\
# The secret of a decad run. Whoever has this file is a member of the run: keep it as you keep a private key.
# The first secret is this machine's own; those below it are accepted too, until `decad secret retire`.
# decad-admin-1 is the id of a peer whose `decad peers deny` binds all members.
"""


class RunSecrets(NamedTuple):
    """What the file holds."""

    secrets: tuple[bytes, ...]
    """This machine's own first."""
    admins: tuple[str, ...]
    """Peer ids."""


def secret_file(named: Path | None, state_dir: Path) -> Path:
    """Where the secret is: in the file that the operator named, else in the state directory."""
    return named or state_dir / SECRET_FILE


def new_secret() -> bytes:
    """A random secret."""
    return secrets.token_bytes(SECRET_BYTES)


def to_text(secret: bytes) -> str:
    """One line, with a checksum against a slip of the hand."""
    return f"{_TAG} {base64.b32encode(secret + _check(secret)).decode().rstrip('=').lower()}"


def from_text(line: str) -> bytes:
    """The secret of one line. Raises ValueError, which never tells what the line holds."""
    tag, _, body = line.strip().partition(" ")
    body = body.strip().upper()
    try:
        raw = base64.b32decode(body + "=" * (-len(body) % 8))
    except binascii.Error:
        raw = b""
    secret, check = raw[:SECRET_BYTES], raw[SECRET_BYTES:]
    if tag != _TAG or len(secret) != SECRET_BYTES or check != _check(secret):
        raise ValueError("it is not a secret, or was copied with a mistake")
    return secret


def read_secrets(path: Path) -> RunSecrets:
    """Raises ConfigError when the file is missing, damaged, or can be read by other users of this machine."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(MAX_FILE_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise ConfigError(
            f"The run's secret cannot be read from {path}: {error.strerror}. `decad secret new` makes one, on one "
            "machine; the others join by `decad invite` there."
        ) from None
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(
            f"The run's secret in {path} can be read by other users of this machine (mode {stat.S_IMODE(mode):04o}). "
            f"Run chmod 600 {path}; if somebody may have read it, then also `decad secret rotate`."
        )
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip() and line[0] != "#"]
    found, admins = [], []
    for number, line in lines:
        try:
            if admin := re.fullmatch(rf"{_ADMIN} ([0-9a-f]{{64}})", line.strip()):
                admins.append(admin[1])
            else:
                found.append(from_text(line))
        except ValueError as error:
            raise ConfigError(f"The run's secret cannot be used: {path}, line {number}: {error}.") from None
    if not 0 < len(found) <= MOST_SECRETS:
        raise ConfigError(f"{path} has {len(found)} secrets, where 1 to {MOST_SECRETS} belong.")
    return RunSecrets(tuple(found), tuple(admins))


def write_secrets(path: Path, kept: RunSecrets, replace: bool) -> None:
    """Write the file, for its owner alone, whole or not at all. Raises ConfigError, if it exists unless ``replace``."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    lines = [*map(to_text, kept.secrets), *(f"{_ADMIN} {admin}" for admin in kept.admins)]
    try:
        make_directory(path.parent)
        write_file(draft, [(_HEAD + "\n".join(lines) + "\n").encode()])
        try:
            if replace:
                os.replace(draft, path)
            else:
                os.link(draft, path)  # unlike a rename, never takes the place of a file
        finally:
            draft.unlink(missing_ok=True)
        sync_directory(path.parent)
    except FileExistsError:
        raise ConfigError(
            f"There is a secret in {path} already, and without it this machine is no member of its run. Name another "
            "file with --secret; or change the run's secret with `decad secret rotate`."
        ) from None
    except OSError as error:
        raise ConfigError(f"The secret cannot be written to {path}: {error.strerror}.") from None


def _check(secret: bytes) -> bytes:
    return hashlib.sha256(b"decad secret check" + secret).digest()[:_CHECK_BYTES]
