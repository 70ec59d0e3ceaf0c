"""This machine's certificates, from the run's secret or the site's own authority, read anew when their files change."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from decad.errors import ConfigError, LinkClosed
from decad.membership.identity import Identity, key_digest
from decad.trust import proof
from decad.trust.authority import Authority
from decad.trust.secret import read_secrets
from decad.wire.tls import Proven, Statement, TrustDomain

MAX_PEM_BYTES = 1 << 20


@dataclass(frozen=True)
class SiteFiles:
    """A site's own certificates, PEM."""

    ca: Path
    cert: Path
    key: Path
    name: str
    """The DNS name that the certificates of the run's members have."""

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.ca, self.cert, self.key)


class Credentials:
    """`decad.wire.tls.Authenticator` of one identity. Raises ConfigError when the files cannot be used at first.

    Once they could, a file that is damaged later changes nothing: ``tell`` hears of it, once.
    """

    def __init__(
        self, identity: Identity, source: Path | SiteFiles, tell: Callable[[str], object] = lambda text: None
    ) -> None:
        """``source``: the file of the run's secret, or those of the site's authority."""
        self._identity, self._source, self._tell = identity, source, tell
        self._paths = (source,) if isinstance(source, Path) else source.paths
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._domains = self._read()

    def domains(self) -> Sequence[TrustDomain]:
        with self._lock:
            if (stamp := self._stamp()) != self._seen:
                self._seen = stamp
                try:
                    self._domains = self._read()
                except ConfigError as error:
                    self._tell(f"{error} Meanwhile this peer goes on with what it had.")
            return self._domains

    def state_as_client(self, domain: TrustDomain, nonce: str) -> Statement:
        return proof.state_as_client(self._identity, _certified(domain.chain), nonce)

    def check_client(self, certificate: bytes, statement: Statement, nonce: str) -> Proven:
        shown = _certificate(certificate)
        domain = next((d.name for d in self.domains() if self._is_of(shown, d)), None)
        if domain is None:
            raise LinkClosed("who dialled showed a certificate that is not of this run's members.")
        try:
            peer = proof.client_of(statement, key_digest(shown.public_key()), nonce)
        except proof.NotProvedError as error:
            raise LinkClosed(f"who dialled did not prove its identity: {error}.") from None
        return Proven(peer, domain)

    def state_as_server(self, certificate: bytes, client: Proven, nonce: str) -> Statement:
        return proof.state_as_server(self._identity, _certified(certificate), client.peer, nonce)

    def check_server(self, domain: TrustDomain, statement: Statement, nonce: str) -> Proven:
        try:
            peer = proof.server_of(statement, _certified(domain.chain), self._identity.peer_id, nonce)
        except proof.NotProvedError as error:
            raise LinkClosed(f"what answers there did not prove its identity: {error}.") from None
        return Proven(peer, domain.name)

    def _is_of(self, shown: x509.Certificate, domain: TrustDomain) -> bool:
        """Whether a certificate that TLS has accepted is of this domain: where there are several, TLS does not say."""
        if domain.name not in _names(shown):
            return False
        if not isinstance(self._source, Path):  # one domain, and there may be authorities between
            return True
        try:
            shown.verify_directly_issued_by(x509.load_pem_x509_certificate(domain.roots))
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def _stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_stamp, self._paths))

    def _read(self) -> tuple[TrustDomain, ...]:
        if isinstance(self._source, Path):
            return tuple(self._of_secret(secret) for secret in read_secrets(self._source).secrets)
        return (_of_site(self._source),)

    def _of_secret(self, secret: bytes) -> TrustDomain:
        authority = Authority(secret)
        key = self._identity.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        chain = authority.issue(self._identity.key.public_key())
        return TrustDomain(authority.name, authority.certificate, chain, key)


def _of_site(files: SiteFiles) -> TrustDomain:
    roots, chain, key = map(read_pem, files.paths)
    try:
        x509.load_pem_x509_certificates(roots)
        own = x509.load_pem_x509_certificate(chain)
        private: PrivateKeyTypes = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"The certificates cannot be used: {', '.join(map(str, files.paths))} should be PEM, the key without a "
            f"password ({str(error).partition(chr(10))[0][:100]})."
        ) from None
    if key_digest(private.public_key()) != key_digest(own.public_key()):
        raise ConfigError(f"{files.key} is not the key of the certificate in {files.cert}.")
    if files.name not in _names(own):
        raise ConfigError(
            f"The certificate in {files.cert} lacks the DNS name {files.name} (it has "
            f"{', '.join(_names(own)) or 'none'}). Each member's certificate has it, and no other certificate of this "
            "authority; --tls-name chooses another name."
        )
    return TrustDomain(files.name, roots, chain, key)


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return found.value.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):
        return []


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise LinkClosed("who dialled showed a certificate that cannot be read.") from None


def _certified(chain: bytes) -> bytes:
    return key_digest(x509.load_pem_x509_certificate(chain).public_key())


def read_pem(path: Path) -> bytes:
    """What is in a file of certificates. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_PEM_BYTES)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
