"""What protects a peer's links, as its operator set it: the run's secret, the site's certificates, or nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

from decad.config import PeerConfig, is_loopback, split_address
from decad.errors import ConfigError
from decad.trust.authority import discovery_key
from decad.trust.credentials import SiteFiles, read_pem
from decad.trust.secret import read_secrets, secret_file

Protection = Path | SiteFiles | None
"""The file of the run's secret; the site's certificates; or nothing, so that anybody who reaches the port is a peer."""


def protection_of(config: PeerConfig) -> Protection:
    """What is set, or found in the state directory. Raises ConfigError where settings contradict one another."""
    site = (config.tls_ca, config.tls_cert, config.tls_key)
    secret = config.secret
    if secret is None and not any(site) and (usual := secret_file(None, config.state_dir)).exists():
        secret = usual
    if secret is not None and any(site):
        raise ConfigError("--secret and --tls-ca exclude each other: a run's members have one or the other.")
    if any(site) and not all(site):
        raise ConfigError("--tls-ca, --tls-cert and --tls-key belong together: give all three, or none.")
    if config.insecure and (secret or any(site)):
        raise ConfigError(
            f"--insecure would leave {secret or config.tls_ca} unused, and the links open to anybody. Leave out "
            "--insecure; or, if that is meant, move the file away or choose another --state-dir."
        )
    if config.tls_ca and config.tls_cert and config.tls_key:
        return SiteFiles(config.tls_ca, config.tls_cert, config.tls_key, config.tls_name)
    return secret


def listen_address(config: PeerConfig, protection: Protection) -> str:
    """Where to accept links. Raises ConfigError where strangers could reach it, unless ``--insecure`` accepts that."""
    if config.listen is None:
        return "0.0.0.0:0" if protection else "127.0.0.1:0"
    usual = secret_file(None, config.state_dir)
    if protection is None and not config.insecure and not is_loopback(split_address(config.listen)[0]):
        raise ConfigError(
            f"--listen {config.listen} would accept links from other machines, and without a secret anybody there is "
            f"a peer. Make a secret with `decad secret new`, or copy the run's to {usual}, and start again; or, on a "
            "network where you trust everybody, give --insecure."
        )
    return config.listen


def half_hidden(config: PeerConfig, listen: str) -> str:
    """What to say to who dials other machines but cannot be dialled by them; empty if all is well."""
    far = [address for address in config.peers if not is_loopback(split_address(address)[0])]
    if not far or not is_loopback(split_address(listen)[0]):
        return ""
    return (
        f"This peer dials {far[0]}, but listens at {listen}, where no other machine can reach it: it mixes with those "
        "only that it dials itself. To join all of them, give it the run's secret, and leave out --listen or name an "
        "address of this machine."
    )


def discovery_keys(protection: Protection) -> tuple[bytes, ...]:
    """By which members recognise each other's announcements, this peer's own first. Raises ConfigError."""
    if protection is None:
        return (b"",)
    if isinstance(protection, Path):
        return tuple(map(discovery_key, read_secrets(protection).secrets))
    return (hashlib.sha256(read_pem(protection.ca)).digest(),)


def in_words(protection: Protection, listen: str) -> str:
    """Who can take part, for people."""
    if isinstance(protection, Path):
        return f"TLS 1.3, open to whoever has the run's secret ({protection})"
    if protection is not None:
        return f"TLS 1.3, open to certificates of {protection.ca} with the name {protection.name}"
    if is_loopback(split_address(listen)[0]):
        return "no secret, open to programs on this machine alone"
    return "NO SECRET: anybody who reaches the port reads the blocks and can spoil them"
