"""Which peers may take part, beyond having the secret: verdicts of this machine's operator and of the run's admins.

A verdict is about an id, the hash of a public key. An admin's is signed, spreads to all members, and binds all; the
admins' ids are in the file of the secret. This machine's own verdicts are not signed and stay here. Of an admin's
verdicts on a peer the one with the highest number holds.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from decad.errors import StateError
from decad.membership.identity import Identity
from decad.state.files import make_directory, write_file
from decad.trust import proof
from decad.wire.limits import MAX_VERDICTS
from decad.wire.tls import Statement

ROSTER_FILE = "peers.json"
"""Name of the file within the state directory."""
SHORTEST_PREFIX = 8
"""Characters of an id by which people may name a peer that is known."""
_ID = re.compile(r"[0-9a-f]{64}")


class Verdict(NamedTuple):
    """An admin's, on one peer."""

    peer: str
    """Its id, 64 hex characters."""
    allowed: bool
    number: int
    """Of two by admins on one peer the higher holds: nanoseconds since 1970 when it was made, by the admin's clock."""
    statement: Statement


class _Saved(BaseModel):
    model_config = ConfigDict(extra="forbid")

    only_listed: bool = False
    allowed: list[str] = Field(default_factory=list)
    denied: list[str] = Field(default_factory=list)
    verdicts: list[tuple[str, bool, int, str, str]] = Field(default_factory=list)
    """Of admins: id, allowed, number, key and signature in hex."""


class Roster:
    """The file ``peers.json`` of a state directory; read anew when it changes. Raises StateError when it is damaged."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / ROSTER_FILE
        self._stamp: tuple[int, int] | None = None
        self._saved = _Saved()
        self.refresh()

    @property
    def only_listed(self) -> bool:
        """Whether peers take part only if they are allowed by name."""
        return self._saved.only_listed

    @property
    def allowed(self) -> frozenset[str]:
        """Ids that this machine's operator or an admin allowed last."""
        return frozenset(self._saved.allowed) | {v.peer for v in self.verdicts() if v.allowed} - self.denied

    @property
    def denied(self) -> frozenset[str]:
        """Ids that this machine's operator or an admin denied last."""
        return frozenset(self._saved.denied) | {v.peer for v in self.verdicts() if not v.allowed}

    def objection(self, peer: str) -> str:
        """Why ``peer`` may not take part, as the end of a sentence; empty if it may."""
        if peer in self.denied:
            return "it was denied by decad peers deny"
        if self.only_listed and peer not in self.allowed:
            return "only listed peers take part here, and it is not on the list (decad peers allow)"
        return ""

    def verdicts(self) -> list[Verdict]:
        """The admins'."""
        return [
            Verdict(peer, allowed, number, Statement(bytes.fromhex(key), bytes.fromhex(signature)))
            for peer, allowed, number, key, signature in self._saved.verdicts
        ]

    def allow(self, peer: str) -> None:
        """This machine's operator allows ``peer``."""
        with self._changing() as saved:
            saved.denied = [kept for kept in saved.denied if kept != peer]
            saved.allowed = sorted({*saved.allowed, peer})

    def deny(self, peer: str) -> None:
        """This machine's operator denies ``peer``."""
        with self._changing() as saved:
            saved.allowed = [kept for kept in saved.allowed if kept != peer]
            saved.denied = sorted({*saved.denied, peer})

    def list_only(self, only_listed: bool) -> None:
        """Whether peers take part only if they are allowed by name."""
        with self._changing() as saved:
            saved.only_listed = only_listed

    def learn(self, verdicts: Iterable[Verdict], admins: frozenset[str]) -> list[Verdict]:
        """Keep what is new of ``verdicts`` and by one of ``admins``; returns those. The others are passed over.

        Raises NotProvedError, and keeps none, if one claims to be an admin's and is not: checking a signature takes
        time, so whoever passes on false ones is not to go on.
        """
        kept = {verdict.peer: verdict for verdict in self.verdicts()}
        new: list[Verdict] = []
        for verdict in verdicts:
            older = kept.get(verdict.peer)
            if older is not None and older.number >= verdict.number:
                continue
            if older is None and len(kept) >= MAX_VERDICTS:
                continue
            if hashlib.sha256(verdict.statement.key).hexdigest() in admins:
                proof.signer_of(verdict.statement, _parts(verdict.peer, verdict.allowed, verdict.number))
                kept[verdict.peer] = verdict
                new.append(verdict)
        if new:
            with self._changing() as saved:
                # Beside those that another process wrote meanwhile; of two on one peer the higher number holds.
                others = {saved_as[0]: saved_as for saved_as in saved.verdicts}
                for v in new:
                    if v.peer not in others or others[v.peer][2] < v.number:
                        key, signature = v.statement.key.hex(), v.statement.signature.hex()
                        others[v.peer] = (v.peer, v.allowed, v.number, key, signature)
                saved.verdicts = [others[peer] for peer in sorted(others)]
        return new

    def refresh(self) -> bool:
        """Read the file if it changed; returns whether it did."""
        try:
            found = self.path.stat()
            stamp = (found.st_mtime_ns, found.st_ino)
            if stamp == self._stamp:
                return False
            self._saved = _Saved.model_validate_json(self.path.read_text(encoding="utf-8"))
            if not all(map(_ID.fullmatch, (*self._saved.allowed, *self._saved.denied))):
                raise ValueError("an id has 64 hex characters")
            self.verdicts()
        except FileNotFoundError:
            gone, self._stamp, self._saved = self._stamp is not None, None, _Saved()
            return gone
        except (OSError, ValueError, ValidationError) as error:
            raise StateError(
                f"{self.path}, which says which peers may take part, cannot be read: "
                f"{str(error).partition(chr(10))[0][:120]}. Restore it from a copy; or remove it, and deny again "
                "whom you had denied."
            ) from None
        self._stamp = stamp
        return True

    @contextmanager
    def _changing(self) -> Iterator[_Saved]:
        """What is on the disk, to be changed and written again: the daemon and a command may do so at once."""
        draft = self.path.with_name(f".{self.path.name}")
        try:
            make_directory(self.path.parent)
            with self.path.with_name(f".{self.path.name}.lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self.refresh()
                yield self._saved
                write_file(draft, [self._saved.model_dump_json(indent=1).encode()])
                draft.replace(self.path)
                self.refresh()
        except OSError as error:
            raise StateError(f"{self.path} cannot be written: {error.strerror}.") from None


def pronounce(admin: Identity, peer: str, allowed: bool) -> Verdict:
    """An admin's verdict on a peer."""
    number = time.time_ns()
    return Verdict(peer, allowed, number, proof.sign(admin, _parts(peer, allowed, number)))


def matching(ids: Iterable[str], prefix: str) -> str:
    """The one of ``ids`` that begins with ``prefix``; an id of full length stands for itself. Raises StateError."""
    prefix = prefix.lower()
    if _ID.fullmatch(prefix):
        return prefix
    found = (
        sorted({peer for peer in ids if peer.startswith(prefix)}) if len(prefix) >= SHORTEST_PREFIX else []
    )
    if len(found) == 1:
        return found[0]
    why = f"{len(found)} known peers begin with it" if found else "no known peer begins with it"
    raise StateError(
        f"{prefix!r} names no peer: {why}. Give the 64 characters of its id; of a peer that "
        f"this machine knows (decad neighbours) the first {SHORTEST_PREFIX} are enough."
    )


def _parts(peer: str, allowed: bool, number: int) -> list[bytes]:
    return [b"decad verdict 1", peer.encode(), b"allowed" if allowed else b"denied", str(number).encode()]
