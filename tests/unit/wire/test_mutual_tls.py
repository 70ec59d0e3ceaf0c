"""Who gets a link, and who each end then believes the other to be: attacks on the connection itself."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from decad.errors import ConfigError, LinkClosed
from decad.membership.identity import Identity, key_digest
from decad.trust import proof
from decad.trust.authority import Authority
from decad.trust.credentials import Credentials, SiteFiles
from decad.trust.secret import RunSecrets, new_secret, read_secrets, write_secrets
from decad.wire.grpc_transport import GrpcTransport
from decad.wire.tls import Proven, Statement, TrustDomain
from decad.wire.transport import Link

PATIENCE_S = 5.0
SECRET, OTHER = new_secret(), new_secret()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def secret_file(folder: Path, *secrets: bytes) -> Path:
    path = folder / f"secret{len(list(folder.iterdir()))}"
    write_secrets(path, RunSecrets(secrets, ()), replace=False)
    return path


class Listener:
    """Accepts links and keeps them."""

    def __init__(self, transport: GrpcTransport) -> None:
        self.transport, self.links, self.address = transport, asyncio.Queue[Link](), ""

    async def accept(self, link: Link) -> None:
        self.links.put_nowait(link)
        while True:
            await link.control.receive()

    async def dialled_by(self, dialler: GrpcTransport) -> tuple[Link, Link]:
        """Both ends of a link."""
        dialled = await dialler.dial(self.address, PATIENCE_S)
        return dialled, await asyncio.wait_for(self.links.get(), PATIENCE_S)


@asynccontextmanager
async def listening(credentials: Credentials | None) -> AsyncIterator[Listener]:
    listener = Listener(GrpcTransport(credentials))
    listener.address = await listener.transport.listen("127.0.0.1:0", listener.accept)
    yield listener
    await listener.transport.close()


def member(folder: Path, *secrets: bytes, identity: Identity | None = None) -> Credentials:
    return Credentials(identity or Identity.generate(), secret_file(folder, *secrets))


async def test_both_ends_know_who_the_other_is(folder: Path) -> None:
    a, b = Identity.generate(), Identity.generate()
    async with listening(member(folder, SECRET, identity=a)) as listener:
        dialled, accepted = await listener.dialled_by(GrpcTransport(member(folder, SECRET, identity=b)))
        assert dialled.proven == Proven(a.peer_id, Authority(SECRET).name)
        assert accepted.proven == Proven(b.peer_id, Authority(SECRET).name)
        await dialled.close()


class Forger(Credentials):
    """A member's credentials with one thing wrong."""

    def __init__(self, folder: Path, what: str, victim: Identity) -> None:
        super().__init__(Identity.generate(), secret_file(folder, SECRET))
        self._what, self._victim = what, victim

    def domains(self) -> list[TrustDomain]:
        (domain,) = super().domains()
        if self._what in CERTIFICATES:
            return [domain._replace(**CERTIFICATES[self._what](self._identity))]
        return [domain]

    def state_as_client(self, domain: TrustDomain, nonce: str) -> Statement:
        honest = super().state_as_client(domain, nonce)
        return self._forged(honest, lambda: proof.state_as_client(self._victim, b"another key", nonce))

    def state_as_server(self, certificate: bytes, client: Proven, nonce: str) -> Statement:
        honest = super().state_as_server(certificate, client, nonce)
        # What a member learns when it dials the victim itself: that is about its own key, not the client's.
        relayed = Credentials(self._identity, self._source).domains()[0].chain
        return self._forged(
            honest,
            lambda: proof.state_as_server(
                self._victim,
                key_digest(x509.load_pem_x509_certificate(relayed).public_key()),
                self._identity.peer_id,
                nonce,
            ),
        )

    def _forged(self, honest: Statement, relayed: Callable[[], Statement]) -> Statement:
        victim_key = self._victim.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        match self._what:
            case "the victim's key over one's own signature":
                return honest._replace(key=victim_key)
            case "what the victim said to somebody else":
                return relayed()
            case "nothing":
                return Statement(b"", b"")
            case "garbage":
                return Statement(b"\xff" * 90, b"\x30" * 70)
            case "too much":
                return Statement(b"\xff" * 3000, honest.signature)
        return honest


def _certificate(
    identity: Identity, secret: bytes = SECRET, name: str = "", years: tuple[int, int] = (2020, 2120)
) -> bytes:
    authority = Authority(secret)
    at = [datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in years]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.load_pem_x509_certificate(authority.certificate).subject)
        .public_key(identity.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at[0])
        .not_valid_after(at[1])
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name or Authority(SECRET).name)]), critical=True
        )
        .sign(authority._key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


CERTIFICATES: dict[str, Callable[[Identity], dict[str, Any]]] = {
    "another run's": lambda me: {"chain": Authority(OTHER).issue(me.key.public_key())},
    "another run's with this one's name": lambda me: {"chain": _certificate(me, OTHER)},
    "expired": lambda me: {"chain": _certificate(me, years=(2019, 2021))},
    "of the future": lambda me: {"chain": _certificate(me, years=(2100, 2120))},
    "of another name": lambda me: {"chain": _certificate(me, name="elsewhere.decad")},
    "self-made": lambda me: {"chain": _self_made(me)},
}
STATEMENTS = (
    "the victim's key over one's own signature",
    "what the victim said to somebody else",
    "nothing",
    "garbage",
    "too much",
)


def _self_made(identity: Identity) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "decad")])
    at = [datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2020, 2120)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(identity.key.public_key())
        .serial_number(1)
        .not_valid_before(at[0])
        .not_valid_after(at[1])
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(Authority(SECRET).name)]), critical=True)
        .sign(identity.key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("what", [*CERTIFICATES, *STATEMENTS])
async def test_a_client_with_something_wrong_gets_no_link(folder: Path, what: str) -> None:
    victim = Identity.generate()
    async with listening(member(folder, SECRET)) as listener:
        with pytest.raises(LinkClosed):
            await GrpcTransport(Forger(folder, what, victim)).dial(listener.address, PATIENCE_S)
        assert listener.links.empty()
        assert await listener.dialled_by(GrpcTransport(member(folder, SECRET))), (
            "the others are let in as before"
        )


@pytest.mark.parametrize("what", [*CERTIFICATES, *STATEMENTS])
async def test_a_server_with_something_wrong_is_not_believed(folder: Path, what: str) -> None:
    victim = Identity.generate()
    async with listening(Forger(folder, what, victim)) as listener:
        with pytest.raises(LinkClosed):
            await GrpcTransport(member(folder, SECRET)).dial(listener.address, PATIENCE_S)


@pytest.mark.parametrize(
    ("client", "server", "words"),
    [
        ([OTHER], [SECRET], "another run's secret"),
        ([], [SECRET], "may lack the run's secret"),
        ([SECRET], [], "speaks without TLS"),
    ],
)
async def test_who_lacks_the_secret_is_told_so(
    folder: Path, client: list[bytes], server: list[bytes], words: str
) -> None:
    async with listening(member(folder, *server) if server else None) as listener:
        transport = GrpcTransport(member(folder, *client) if client else None)
        with pytest.raises(LinkClosed, match=words):
            await transport.dial(listener.address, PATIENCE_S)


@pytest.mark.parametrize(
    ("client", "server"),
    [([OTHER, SECRET], [SECRET]), ([SECRET], [OTHER, SECRET]), ([OTHER, SECRET], [OTHER])],
)
async def test_while_the_secret_changes_all_members_link(
    folder: Path, client: list[bytes], server: list[bytes]
) -> None:
    async with listening(member(folder, *server)) as listener:
        dialled, accepted = await listener.dialled_by(GrpcTransport(member(folder, *client)))
        assert dialled.proven is not None
        assert accepted.proven is not None
        assert dialled.proven.domain == accepted.proven.domain


async def test_a_changed_secret_is_taken_up_without_a_restart(folder: Path) -> None:
    credentials = member(folder, SECRET)
    path = credentials._source
    assert isinstance(path, Path)
    async with listening(credentials) as listener:
        newcomer = GrpcTransport(member(folder, OTHER))
        with pytest.raises(LinkClosed):
            await newcomer.dial(listener.address, PATIENCE_S)
        write_secrets(path, RunSecrets((OTHER, SECRET), ()), replace=True)
        assert await listener.dialled_by(newcomer)
        write_secrets(path, RunSecrets((OTHER,), ()), replace=True)
        with pytest.raises(LinkClosed, match="another run's secret"):
            await GrpcTransport(member(folder, SECRET)).dial(listener.address, PATIENCE_S)


async def test_a_secret_that_is_damaged_later_changes_nothing(folder: Path) -> None:
    told: list[str] = []
    path = secret_file(folder, SECRET)
    credentials = Credentials(Identity.generate(), path, told.append)
    path.write_text("nonsense")
    async with listening(credentials) as listener:
        assert await listener.dialled_by(GrpcTransport(member(folder, SECRET)))
    assert len(told) == 1
    assert "goes on with what it had" in told[0]
    with pytest.raises(ConfigError):
        read_secrets(path)


def site(folder: Path, authority: Identity, who: str, name: str = "decad") -> SiteFiles:
    """Certificates of a site's own authority."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the site")])
    at = [datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2020, 2120)]

    def made(key: ec.EllipticCurvePublicKey, ca: bool) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject if ca else x509.Name([]))
            .issuer_name(subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(at[0])
            .not_valid_after(at[1])
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
        return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    key = ec.generate_private_key(ec.SECP256R1())
    files = SiteFiles(folder / f"{who}.ca", folder / f"{who}.cert", folder / f"{who}.key", "decad")
    files.ca.write_bytes(made(authority.key.public_key(), ca=True))
    files.cert.write_bytes(made(key.public_key(), ca=False))
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


async def test_a_sites_own_certificates_do_as_well_and_may_be_renewed(folder: Path) -> None:
    authority, a, b = (Identity.generate() for _ in range(3))
    credentials = Credentials(a, site(folder, authority, "a"))
    async with listening(credentials) as listener:
        dialler = GrpcTransport(Credentials(b, site(folder, authority, "b")))
        dialled, accepted = await listener.dialled_by(dialler)
        assert (dialled.proven, accepted.proven) == (Proven(a.peer_id, "decad"), Proven(b.peer_id, "decad"))
        site(folder, authority, "b")  # the same files, another key
        dialled, accepted = await listener.dialled_by(dialler)
        assert accepted.proven == Proven(b.peer_id, "decad"), (
            "the id is the identity's, not the certificate's"
        )
        with pytest.raises(LinkClosed):
            await GrpcTransport(Credentials(b, site(folder, Identity.generate(), "c"))).dial(
                listener.address, PATIENCE_S
            )


def test_a_site_certificate_for_something_else_is_refused_at_start(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"lacks the DNS name decad \(it has www.example.org\)"):
        Credentials(Identity.generate(), site(folder, Identity.generate(), "a", "www.example.org"))
