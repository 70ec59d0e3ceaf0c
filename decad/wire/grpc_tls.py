"""TLS for gRPC's connections: credentials from an `Authenticator`, and the statements that travel as metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio

from decad.errors import LinkClosed
from decad.wire.grpc_link import Context
from decad.wire.grpc_options import IDENTITY_KEY, SIGNATURE_KEY
from decad.wire.tls import TLS_VERSION, Authenticator, Proven, Statement, TrustDomain

Metadata = tuple[tuple[str, str | bytes], ...]


def server_credentials(authenticator: Authenticator) -> grpc.ServerCredentials:
    """Certificates of all trust domains, as they stand at each handshake; a client without one is hung up on."""
    shown = tuple(authenticator.domains())

    def fetch() -> Any:
        nonlocal shown
        if (now := tuple(authenticator.domains())) == shown:
            return None
        shown = now
        return _configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown), fetch, require_client_authentication=True
    )


def channel_credentials(domain: TrustDomain) -> grpc.ChannelCredentials:
    """This machine's certificate of one trust domain, and the authority that the server's must be of."""
    return grpc.ssl_channel_credentials(domain.roots, domain.key, domain.chain)


def channel_options(domain: TrustDomain) -> list[tuple[str, str]]:
    """The name that the server's certificate must have, which also tells the server which one to show."""
    return [("grpc.ssl_target_name_override", domain.name)]


def as_metadata(statement: Statement) -> Metadata:
    """What one end says of itself, beside the nonce."""
    return (IDENTITY_KEY, statement.key), (SIGNATURE_KEY, statement.signature)


def read_statement(metadata: Mapping[str, Any]) -> Statement:
    """What the other end said; empty if it said nothing, which proves nothing."""
    key, signature = metadata.get(IDENTITY_KEY, b""), metadata.get(SIGNATURE_KEY, b"")
    return Statement(bytes(key), bytes(signature))


def check_arrival(
    authenticator: Authenticator, context: Context, metadata: Mapping[str, Any], nonce: str
) -> tuple[Proven, Metadata]:
    """Who dialled, and what to answer. Raises LinkClosed."""
    # The certificate itself: what gRPC calls the peer's identity is the name in it, which any member may choose.
    shown = context.auth_context()
    version, certificate = _only(shown, "ssl_tls_version"), _only(shown, "x509_pem_cert")
    if version != TLS_VERSION.encode():
        raise LinkClosed(f"who dialled speaks {version.decode(errors='replace')[:20]}, not {TLS_VERSION}.")
    client = authenticator.check_client(certificate, read_statement(metadata), nonce)
    return client, as_metadata(authenticator.state_as_server(certificate, client, nonce))


def _only(shown: Mapping[str, Iterable[bytes]], name: str) -> bytes:
    return next(iter(shown.get(name, ())), b"")


def _configuration(domains: Sequence[TrustDomain]) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(domain.key, domain.chain) for domain in domains], b"".join(domain.roots for domain in domains)
    )
