"""How the members of a run know each other's announcements on the local network, which tell others nothing."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Announcement:
    """What one says, checked for form."""

    salt: str
    key: str
    """Fingerprint of the key."""
    run: str
    """Fingerprint of key and run."""


_FIELD = re.compile(r"[0-9a-f]{16}")


def read_announcement(properties: Mapping[str, str | None]) -> Announcement | None:
    """What an announcement's text says; None if it makes no sense."""
    fields = [properties.get(name) or "" for name in ("s", "k", "r")]
    return Announcement(*fields) if all(map(_FIELD.fullmatch, fields)) else None


@dataclass(frozen=True)
class Recognition:
    """By what the members of a run know each other's announcements."""

    keys: tuple[bytes, ...] = (b"",)
    """Known to members alone, this peer's own first; empty bytes where there is no secret, and anybody can guess."""
    run: str = ""
    """Its name."""
    any_run: bool = False
    """Whether other runs of these keys are wanted too: of a peer that may still adopt whatever run it finds."""

    def sign(self) -> dict[str, str]:
        """What is announced: a salt, and fingerprints of the key alone, and of key and run, 16 hex characters each."""
        salt = secrets.token_hex(8)
        return {
            "s": salt,
            "k": _fingerprint(self.keys[0], salt),
            "r": _fingerprint(self.keys[0], salt, self.run),
        }

    def knows(self, said: Announcement) -> bool:
        """Whether an announcement is by somebody whom this peer looks for."""
        if self.any_run:
            return any(hmac.compare_digest(said.key, _fingerprint(key, said.salt)) for key in self.keys)
        return any(hmac.compare_digest(said.run, _fingerprint(key, said.salt, self.run)) for key in self.keys)


def _fingerprint(key: bytes, salt: str, run: str | None = None) -> str:
    text = f"decad mdns 1 {salt}" + ("" if run is None else f" {run}")
    return hmac.digest(key, text.encode(), "sha256").hex()[:16]
