"""What each end of a link states about itself, signed with its identity key: so the id that a link carries is proved.

A certificate proves membership. The server's end learns from TLS which certificate the client has, and from the
client's statement whose it is. The client is not shown the server's certificate by gRPC, so the server signs what
only the client's own counterpart in TLS can know: the key that the client showed. A member that passes
statements on between two others shows each its own key, and is found out. docs/security.md has the argument.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from decad.membership.identity import Identity, peer_id_of
from decad.wire.tls import Statement

_CLIENT, _SERVER = b"decad link 1: client", b"decad link 1: server"
MAX_KEY_BYTES, MAX_SIGNATURE_BYTES = 256, 128
"""A P-256 key has 91 bytes, its signature 72 at most."""


class NotProvedError(ValueError):
    """A statement that does not hold."""


def state_as_client(identity: Identity, certified: bytes, nonce: str) -> Statement:
    """``certified``: `key_digest` of one's own certificate's key; ``nonce``: the link's, drawn by the client."""
    return sign(identity, [_CLIENT, certified, nonce.encode()])


def client_of(statement: Statement, certified: bytes, nonce: str) -> str:
    """The id of the client that TLS has shown to hold ``certified``. Raises NotProvedError."""
    return signer_of(statement, [_CLIENT, certified, nonce.encode()])


def state_as_server(identity: Identity, certified: bytes, client: str, nonce: str) -> Statement:
    """``certified``: `key_digest` of the certificate that the client showed; ``client``: the id that it proved."""
    return sign(identity, [_SERVER, certified, client.encode(), nonce.encode()])


def server_of(statement: Statement, certified: bytes, client: str, nonce: str) -> str:
    """The id of the server that was shown ``certified``, this client's own. Raises NotProvedError."""
    return signer_of(statement, [_SERVER, certified, client.encode(), nonce.encode()])


def sign(identity: Identity, parts: Sequence[bytes]) -> Statement:
    """A statement of ``identity``; the first of ``parts`` tells what kind it is."""
    public = identity.key.public_key()
    key = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Statement(key, identity.key.sign(_message(parts), ec.ECDSA(hashes.SHA256())))


def signer_of(statement: Statement, parts: Sequence[bytes]) -> str:
    """The id of whoever made a statement. Raises NotProvedError."""
    if len(statement.key) > MAX_KEY_BYTES or len(statement.signature) > MAX_SIGNATURE_BYTES:
        raise NotProvedError("it is too long")
    try:
        key = serialization.load_der_public_key(statement.key)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise NotProvedError("it is made with a key of another kind than ECDSA P-256")
        key.verify(statement.signature, _message(parts), ec.ECDSA(hashes.SHA256()))
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        raise NotProvedError("the signature does not hold") from None
    return peer_id_of(key)


def _message(parts: Sequence[bytes]) -> bytes:
    # Each with its length, so that no two lists of parts give one message.
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
