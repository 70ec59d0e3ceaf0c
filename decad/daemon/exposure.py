"""Who can reach this peer: what is refused and what is said before it listens."""

from __future__ import annotations

from decad.config import PeerConfig, is_loopback, split_address
from decad.errors import ConfigError


def check_exposure(config: PeerConfig) -> None:
    """Raise ConfigError where others could reach it and ``--insecure`` does not accept that."""
    if not config.insecure and not is_loopback(split_address(config.listen)[0]):
        raise ConfigError(
            f"--listen {config.listen} would accept links from other machines, and links are neither encrypted nor "
            "authenticated yet. Listen on 127.0.0.1, or accept that on a network you trust with --insecure."
        )


def half_hidden(config: PeerConfig) -> str:
    """What to say to who dials other machines but cannot be dialled by them; empty if all is well."""
    far = [address for address in config.peers if not is_loopback(split_address(address)[0])]
    if not far or not is_loopback(split_address(config.listen)[0]):
        return ""
    return (
        f"This peer dials {far[0]}, but listens at {config.listen}, where no other machine can reach it: it mixes "
        "with those only that it dials itself. To join all of them, start it with --listen 0.0.0.0:0 --insecure."
    )
