"""From a short code to a strong key that both ends have, and nobody between them: SPAKE2 (RFC 9382), by python-spake2.

Whoever does not know the code gets one guess a try, and learns nothing that could be tried offline. What each end has
seen of the other goes into it: the inviter's TLS certificate, and the joiner's identity key. So a stranger in the
middle, who has to show the joiner a certificate of its own, ends up with another key than either.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from spake2 import SPAKE2_A, SPAKE2_B

from decad.errors import PeerError
from decad.trust.code import in_syllables

KEY_BYTES = 32


class WrongCodeError(PeerError):
    """The other end does not have the code, or somebody is between the two."""


class Agreed:
    """What follows from the shared key."""

    def __init__(self, key: bytes, transcript: bytes) -> None:
        self._key, self.transcript = key, transcript

    def proof(self, role: str) -> bytes:
        """What the end of this ``role``, joiner or inviter, shows the other: that it has the key."""
        return self._derived(f"proof of the {role}")

    def check(self, role: str, shown: bytes) -> None:
        """Raises WrongCodeError unless ``shown`` is the proof of the other end's ``role``."""
        if not hmac.compare_digest(shown, self.proof(role)):
            raise WrongCodeError("the code is wrong")

    @property
    def words(self) -> str:
        """For people to compare: the same at both ends if nobody is between them."""
        return in_syllables(self._derived("words")[:4])

    @property
    def ticket(self) -> bytes:
        """With which the joiner may come back when its connection broke."""
        return self._derived("ticket")

    def _derived(self, what: str) -> bytes:
        return HKDF(
            hashes.SHA256(), length=KEY_BYTES, salt=self.transcript, info=f"decad invite 1 {what}".encode()
        ).derive(self._key)


class Pake:
    """One end of one try. ``joins``: whether it is the joiner's; ``certificate``: the inviter's, DER; ``key``: the
    joiner's public identity key, DER."""

    def __init__(self, code: str, joins: bool, certificate: bytes, key: bytes) -> None:
        joiner = b"joiner " + hashlib.sha256(key).digest()
        inviter = b"inviter " + hashlib.sha256(certificate).digest()
        kind = SPAKE2_A if joins else SPAKE2_B
        self._spake = kind(code.encode(), idA=joiner, idB=inviter)
        self._joins, self._names = joins, joiner + inviter
        self.message: bytes = self._spake.start()
        """For the other end."""

    def finish(self, message: bytes) -> Agreed:
        """``message``: the other end's. Raises WrongCodeError when it makes no sense; a wrong code shows later."""
        try:
            key = self._spake.finish(message)
        except Exception as error:  # of the library's own, ValueError, AssertionError: all say the same
            raise WrongCodeError(f"a message that is none of this exchange: {error}") from None
        first, second = (self.message, message) if self._joins else (message, self.message)
        return Agreed(key, hashlib.sha256(self._names + first + second).digest())
