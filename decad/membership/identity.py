"""Who this peer is: a key pair made on first start, and the id derived from its public half.

The id cannot be claimed by another peer wherever links are authenticated, since the certificate carries the
key.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from decad.errors import StateError

KEY_FILE = "identity.pem"
"""Name of the key file within the state directory."""

ID_BYTES = hashlib.sha256().digest_size
"""Of a peer's id, which is a hash."""


@dataclass(frozen=True)
class Identity:
    """This peer's key (ECDSA P-256: gRPC's TLS does not take Ed25519) and the id that follows from it."""

    key: ec.EllipticCurvePrivateKey
    peer_id: str
    """SHA-256 of the public key's DER SubjectPublicKeyInfo, 64 hex characters."""

    @classmethod
    def of(cls, key: ec.EllipticCurvePrivateKey) -> Identity:
        return cls(key, peer_id_of(key.public_key()))

    @classmethod
    def generate(cls) -> Identity:
        """A new one, which is nowhere but in memory."""
        return cls.of(ec.generate_private_key(ec.SECP256R1()))


def key_digest(key: PublicKeyTypes) -> bytes:
    """SHA-256 of a public key (DER SubjectPublicKeyInfo), of whatever kind."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest()


def peer_id_of(key: ec.EllipticCurvePublicKey) -> str:
    """The id of the peer that holds the private half of ``key``: 64 hex characters."""
    return key_digest(key).hex()


def short_id(peer_id: str) -> str:
    """The first 8 hex characters: for people to read, never to compare."""
    return peer_id[:8]


def load(state_dir: Path) -> Identity | None:
    """Read this peer's key from ``state_dir``; None if there is none yet. Raises StateError when it is damaged."""
    path = state_dir / KEY_FILE
    try:
        pem = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from None
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _damaged(path, "it is not an unencrypted PEM private key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _damaged(path, "it holds a key of another kind than ECDSA P-256")
    return Identity.of(key)


def load_or_create(state_dir: Path, new: Identity | None = None) -> Identity:
    """Read this peer's key from ``state_dir``, making directory and key (that of ``new``) on first start.

    The file is PEM (PKCS #8), mode 0600, and is there whole or not at all; of two processes that start at
    once both use the key that came first. Raises StateError when the file is damaged or the directory
    cannot be used.
    """
    path = state_dir / KEY_FILE
    if (there := load(state_dir)) is not None:
        return there
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(new or Identity.generate(), path)
    except OSError as error:
        raise _unusable(path, error) from None
    saved = load(state_dir)
    if saved is None:
        raise StateError(f"{path} was removed while the daemon started. Start it again.")
    return saved


def _unusable(path: Path, error: OSError) -> StateError:
    return StateError(
        f"{path} cannot be read or made: {error.strerror}. Check who owns {path.parent}, or choose another "
        "directory with --state-dir."
    )


def _damaged(path: Path, what: str) -> StateError:
    return StateError(
        f"{path} is not this peer's key: {what}. Restore it from a copy; or move it away, and the next start "
        "makes a new key, with which the other peers take this machine for a new peer."
    )


def _write(identity: Identity, path: Path) -> None:
    pem = identity.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, never replaces a key that another process has begun to use.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
