"""What an inviter gives a joiner: membership, where the run is, and the files of the base model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from decad.config import LOADING_FIELDS, MAX_ADDRESS_CHARS
from decad.errors import ConfigError, PeerError
from decad.state.files import hash_file
from decad.trust.secret import MOST_SECRETS, RunSecrets, from_text, to_text

SUFFIXES = frozenset({".json", ".safetensors", ".txt", ".model", ".jinja"})
"""Of a model's files that are handed over: data, never code, and nothing that is a pickle."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
"""Of a file: no path leads out of the directory, and nothing is hidden."""
MAX_FILES = 1024
MAX_ADDRESSES = 64
_PART = ".part"

_Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ModelFile(BaseModel):
    """One file of the base model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=rf"^{NAME.pattern}$")]
    size: Annotated[int, Field(ge=0, le=1 << 44)]
    sha256: _Hex


class Handover(BaseModel):
    """What the joiner receives once the inviter agreed."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    run: Annotated[str, Field(max_length=256)]
    """Its name."""
    fingerprint: Annotated[str, Field(max_length=64)]
    """Of the run spec, for people."""
    loading: Annotated[dict[Annotated[str, Field(max_length=64)], str], Field(max_length=16)] = {}
    """Settings by which the model is loaded, as flags have them; those that are no such settings are not taken."""
    secrets: Annotated[tuple[str, ...], Field(max_length=MOST_SECRETS)] = ()
    """As in the file of the secret; none in a run that rests on a site's certificates."""
    admins: Annotated[tuple[_Hex, ...], Field(max_length=256)] = ()
    port: Annotated[int, Field(ge=1, le=65535)]
    """Of the inviter's daemon; its host is where the joiner reached the inviter."""
    peers: Annotated[
        tuple[Annotated[str, Field(max_length=MAX_ADDRESS_CHARS)], ...], Field(max_length=MAX_ADDRESSES)
    ] = ()
    """Addresses of other members."""
    model: Annotated[tuple[ModelFile, ...], Field(max_length=MAX_FILES)] = ()

    @field_validator("loading")
    @classmethod
    def _only_these(cls, value: dict[str, str]) -> dict[str, str]:
        return {name: text for name, text in value.items() if name in LOADING_FIELDS}

    def membership(self) -> RunSecrets | None:
        """Raises PeerError when a secret is damaged."""
        try:
            return RunSecrets(tuple(map(from_text, self.secrets)), self.admins) if self.secrets else None
        except ValueError as error:
            raise PeerError(f"what came is no secret: {error}.") from None


def as_text(secrets: RunSecrets | None) -> tuple[str, ...]:
    """The secrets as they travel."""
    return tuple(map(to_text, secrets.secrets)) if secrets else ()


def files_of(directory: Path) -> tuple[ModelFile, ...]:
    """The base model's files that are handed over, hashed. Raises ConfigError."""
    try:
        paths = sorted(
            path
            for path in directory.iterdir()
            if path.is_file() and path.suffix in SUFFIXES and NAME.fullmatch(path.name)
        )
        files = tuple(ModelFile(name=p.name, size=p.stat().st_size, sha256=hash_file(p)) for p in paths)
    except OSError as error:
        raise ConfigError(f"The model in {directory} cannot be read: {error.strerror}.") from None
    if not any(file.name == "config.json" for file in files):
        raise ConfigError(f"{directory} is no model directory: there is no config.json in it.")
    return files


class Receiving:
    """The joiner's directory of the base model, as its files come. Partial files are gone on with."""

    def __init__(self, directory: Path, files: tuple[ModelFile, ...]) -> None:
        self._directory = directory
        self.missing = [file for file in files if not self._has(file)]
        """Files that are not there yet, or differ."""

    def taken(self, file: ModelFile) -> int:
        """How many bytes of a missing file are there from an earlier try."""
        try:
            size = self.part(file).stat().st_size
        except FileNotFoundError:
            return 0
        return size if size <= file.size else 0

    def part(self, file: ModelFile) -> Path:
        """Where a file is until it is whole and hashed."""
        return self._directory / f".{file.name}{_PART}"

    def finish(self, file: ModelFile) -> None:
        """All bytes are there. Raises PeerError, and lets go of them, when they are not what was announced."""
        part = self.part(file)
        if hash_file(part) != file.sha256:
            part.unlink()
            raise PeerError(
                f"{file.name} arrived damaged; nothing of it was kept. Ask for another invitation."
            )
        part.replace(self._directory / file.name)

    def _has(self, file: ModelFile) -> bool:
        path = self._directory / file.name
        try:
            return path.stat().st_size == file.size and hash_file(path) == file.sha256
        except FileNotFoundError:
            return False
