"""What the transport needs of whoever knows the run's members: certificates, and statements of who is at each end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

TLS_VERSION = "TLSv1.3"
"""The only one that is spoken, in the words of gRPC's ``ssl_tls_version``."""


class TrustDomain(NamedTuple):
    """Those who hold certificates of one authority, and this machine's own certificate of it."""

    name: str
    """The DNS name that every member's certificate has; a client asks for it, so that a server of several domains
    shows the right one."""
    roots: bytes
    """Of the authority, PEM."""
    chain: bytes
    """This machine's certificate and what is between it and the authority, PEM."""
    key: bytes
    """Its private key, PEM."""


class Statement(NamedTuple):
    """What one end says of itself."""

    key: bytes
    """Its identity's public key, DER SubjectPublicKeyInfo."""
    signature: bytes
    """ECDSA with SHA-256, DER."""


class Proven(NamedTuple):
    """Who is at the other end."""

    peer: str
    """Its id, 64 hex characters."""
    domain: str
    """Name of the trust domain that its certificate is of."""


class Authenticator(Protocol):
    """Knows this machine's trust domains and checks who is at the other end. Called from several threads."""

    def domains(self) -> Sequence[TrustDomain]:
        """As they stand now, this machine's first choice first."""
        ...

    def state_as_client(self, domain: TrustDomain, nonce: str) -> Statement:
        """What the dialling end says, who uses its certificate of ``domain``."""
        ...

    def check_client(self, certificate: bytes, statement: Statement, nonce: str) -> Proven:
        """Who dialled: ``certificate`` is what TLS saw, PEM. Raises LinkClosed."""
        ...

    def state_as_server(self, certificate: bytes, client: Proven, nonce: str) -> Statement:
        """What the accepting end answers to who showed ``certificate``."""
        ...

    def check_server(self, domain: TrustDomain, statement: Statement, nonce: str) -> Proven:
        """Who was dialled with the certificate of ``domain``. Raises LinkClosed."""
        ...
