"""The certificate authority of a run: every member derives it from the secret, and signs a certificate for itself.

So there is nobody to ask, and nothing to renew. What a member proves with such a certificate is that it has the secret,
not who it is: any member can sign any name. Identities are proved by `decad.trust.proof`.
"""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from decad.membership.identity import key_digest

_DISCOVERY = b"recognition on the local network"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256's group (FIPS 186-5)."""
_SALT, _INFO = b"decad run secret 1", b"certificate authority"
_BEGIN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_END = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)
"""Clocks of members are never compared: a machine whose clock stands at 1 January 2024 is a member too."""
_DOMAIN = "decad"
"""Ends the name that every member's certificate has. It is in no public DNS and never looked up."""


class Authority:
    """The authority that follows from ``secret``, of `decad.trust.secret.SECRET_BYTES` bytes."""

    def __init__(self, secret: bytes) -> None:
        # 48 bytes: the remainder is as good as uniform (FIPS 186-5, A.2.1).
        raw = HKDF(hashes.SHA256(), length=48, salt=_SALT, info=_INFO).derive(secret)
        self._key = ec.derive_private_key(int.from_bytes(raw, "big") % (_ORDER - 1) + 1, ec.SECP256R1())
        public = self._key.public_key()
        self.fingerprint = key_digest(public).hex()[:16]
        """Tells secrets apart, and tells nothing of them."""
        self.name = f"{self.fingerprint}.{_DOMAIN}"
        """The DNS name of every member's certificate."""
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"decad run {self.fingerprint}")])
        certificate = (
            self._builder(public)
            .subject_name(self._subject)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(_only_signs_certificates(), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = certificate.public_bytes(serialization.Encoding.PEM)
        """Its own, PEM. Two members' differ in the signature alone, and each accepts what either issues."""

    def issue(self, key: ec.EllipticCurvePublicKey) -> bytes:
        """A certificate for a member's key, PEM."""
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            self._builder(key)
            .subject_name(x509.Name([]))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(self.name)]), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def _builder(self, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .issuer_name(self._subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_BEGIN)
            .not_valid_after(_END)
        )


def discovery_key(secret: bytes) -> bytes:
    """By which members recognise each other's announcements on the local network; tells nothing of the secret."""
    return HKDF(hashes.SHA256(), length=32, salt=_SALT, info=_DISCOVERY).derive(secret)


def _only_signs_certificates() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
