"""Where settings come from: decad.toml, DECAD_* variables and flags, in rising precedence, all in the same forms.

A value is a number, a word, a path, true or false, or a list; each may also be written as text, as variables and flags
have it: lists with commas, yes and no, on and off. A path may begin with ~. An empty value is the default, whatever an
earlier source said. Every message names the key and the source that set it. No torch here.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from decad.config import MEASURED_FIELDS, PeerConfig, RunSpec
from decad.errors import ConfigError
from decad.paths import default_state_dir, user_path

EDGES_FILE = "edges:@"
"""How an overlay begins whose edges are in a file: one a line, or several with commas; # begins a comment."""

NEEDED_SETTINGS = ("model", "data")
"""Without which no daemon starts; a program may have a model and data of its own."""
KNOWN_SETTINGS = (RunSpec.model_fields.keys() | PeerConfig.model_fields.keys()) - MEASURED_FIELDS
_FIELDS = {**RunSpec.model_fields, **PeerConfig.model_fields}
LISTS = frozenset(key for key, field in _FIELDS.items() if get_origin(field.annotation) is tuple)
NUMBERS = frozenset(
    key
    for key, field in _FIELDS.items()
    if {int, float, bool} & {field.annotation, *get_args(field.annotation)}
)


def load_settings(
    flags: Mapping[str, Any],
    toml: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    needed: Collection[str] = NEEDED_SETTINGS,
) -> tuple[RunSpec, PeerConfig]:
    """Merge decad.toml, DECAD_* and flags (None: not given) and validate. Raises ConfigError.

    ``toml`` None reads ./decad.toml if there is one; a path given must exist. ``needed``: what must be set.
    """
    merged: dict[str, Any] = {}
    source: dict[str, str] = {}
    for origin, settings in (
        *_toml_settings(toml),
        ("environment", {k[6:].lower(): v for k, v in environ.items() if k.startswith("DECAD_")}),
        ("flag", {k: v for k, v in flags.items() if v is not None}),
    ):
        for key, value in settings.items():
            named = _spelling(key, origin)
            if key not in KNOWN_SETTINGS:
                raise ConfigError(f"{named}: there is no such setting. {_settings_like(key)}")
            source[key] = named
            merged.pop(key, None)
            if (plain := _plain(key, value)) not in ("", ()):
                merged[key] = plain
    merged.setdefault("state_dir", default_state_dir())
    if (overlay := merged.get("overlay")) and str(overlay).startswith(EDGES_FILE):
        # Read here, so that the run spec holds the edges: a path means something to this machine alone.
        merged["overlay"] = read_edges(user_path(overlay.removeprefix(EDGES_FILE)), source["overlay"])
    for key in needed:
        if key not in merged:
            raise ConfigError(
                f"{key} is not set. Give --{key}, set DECAD_{key.upper()}, or write {key} = ... in decad.toml."
            )
    try:
        spec = RunSpec(**{k: v for k, v in merged.items() if k in RunSpec.model_fields})
        peer = PeerConfig(**{k: v for k, v in merged.items() if k in PeerConfig.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "settings"
        raise ConfigError(
            f"{source.get(key, key)} = {_shown(merged.get(key))} is not accepted: {_reason(first['msg'])}."
        ) from None
    return spec, peer


def read_edges(file: Path, source: str) -> str:
    """The overlay of a file's edges; ``source``: who named it. Raises ConfigError."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{source}: the edges cannot be read from {file}: {why}.") from None
    edges = [edge for line in lines for edge in line.partition("#")[0].replace(",", " ").split()]
    if not edges:
        raise ConfigError(f"{source}: {file} lists no edge. Write one a line, as in anna-ben.")
    return f"edges:{','.join(edges)}"


def _settings_like(key: str) -> str:
    close = difflib.get_close_matches(key, sorted(KNOWN_SETTINGS), n=2)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"Known settings: {', '.join(sorted(KNOWN_SETTINGS))}."


def _shown(value: Any) -> str:
    return repr(",".join(map(str, value)) if isinstance(value, tuple | list) else value)


def _reason(message: str) -> str:
    """pydantic's words as the end of a sentence."""
    message = message.removeprefix("Value error, ").partition(", unable to")[0].rstrip(".")
    if message.startswith("String should match"):
        return "use letters, digits, and . _ - only"
    return message.replace("Input should", "it should").replace("String should", "it should")


def _toml_settings(path: Path | None) -> list[tuple[str, dict[str, Any]]]:
    if path is None:
        path = Path("decad.toml")
        if not path.exists():
            return []
    try:
        return [(str(path), tomllib.loads(path.read_text(encoding="utf-8")))]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Check --config.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None


def _spelling(key: str, origin: str) -> str:
    if origin == "flag":
        return f"--{key.replace('_', '-')}"
    return f"DECAD_{key.upper()} (environment)" if origin == "environment" else f"{key} (in {origin})"


def _plain(key: str, value: Any) -> Any:
    """One form for all in which a setting may be written; what makes no sense is left to be refused."""
    if key in LISTS:
        return _words(value)
    if isinstance(value, int | float) and key not in NUMBERS:
        return value if isinstance(value, bool) else str(value)  # a name of digits, a number of blocks
    return value.strip() if isinstance(value, str) else value


def _words(value: Any) -> Any:
    """A list's parts. A list of TOML has one in each place; text, or each of several flags, has them with commas."""
    if isinstance(value, str):
        value = (value,)
    if isinstance(value, tuple):
        value = [part for text in value for part in text.split(",")]
    if not isinstance(value, list) or not all(isinstance(part, str | int | float) for part in value):
        return value
    return tuple(text for part in value if (text := str(part).strip()))
