"""Settings: what all peers of a run agree on (`RunSpec`) and what concerns this machine alone (`PeerConfig`).

Sources, precedence rising: decad.toml, DECAD_* variables, flags. Every message names the key and the source
that set it. No torch here: `decad status` imports this module.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from decad.core.overlay import parse_overlay
from decad.core.schedule import learning_rate
from decad.errors import ConfigError
from decad.paths import default_state_dir

PROTOCOL_VERSION = 2

NAME_PATTERN = r"^[\w.-]*$"
"""What a peer may be called: a word, since other machines show it on their terminals."""

EDGES_FILE = "edges:@"
"""How an overlay begins whose edges are in a file: one a line, or several with commas; # begins a comment."""

Moments = Literal["rowwise", "gossip", "signal", "none"]
Encoding = Literal["fp32", "bf16-delta"]


class RunSpec(BaseModel):
    """What every peer of a run agrees on. Its fingerprint is compared before anything is exchanged.

    ``model_fields_set`` tells which fields this operator set; the others may be adopted from a peer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.-]+$")] = "default"
    """Name of the run: two runs on one network ignore each other."""
    model_hash: str = ""
    """SHA-256 over names, shapes, dtypes and values of the base weights; measured, not set."""
    model_files: dict[str, str] = {}
    """``file key`` -> value or hash: what else of its files decides what a parameter means; measured, not set."""
    chat_template: str = ""
    """Hash of that by which this peer writes conversations; empty where its data has none; measured, not set."""
    plan_hash: str = ""
    """`BlockPlan.fingerprint`; measured, not set."""
    task: Literal["auto", "causal-lm", "classification"] = "auto"
    """What the model is trained for; auto: what its config.json says it was made for."""
    labels: tuple[str, ...] = ()
    """A classifier's classes, in order; empty: those that the model names."""
    blocks: str = "layers"
    """layers | sublayers | a number | NAME=PATTERN,...;NAME=PATTERN,...: how the model is divided into blocks."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters that are neither trained nor sent, such as model.embed_tokens or **.bias."""
    order: Literal["descending", "ascending", "shuffled"] = "descending"
    """Order in which a round visits the blocks; 0 is the input side."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the visiting order and the stochastic rounding; with the peer's name, of its data's split and order."""
    inner_steps: Annotated[int, Field(ge=1, le=100_000)] = 20
    """R: steps of one block phase."""
    lr: Annotated[float, Field(ge=0, le=1)] = 1e-4
    """Peak learning rate, per step."""
    schedule: str = "constant"
    """constant | linear:HORIZON[:FLOOR] | cosine:HORIZON[:FLOOR]; HORIZON in steps, FLOOR a share of lr."""
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Share of each phase in which the learning rate rises to that of the schedule; 0: it is there at once."""
    moments: Moments = "rowwise"
    """Moment rule (docs/theory.md)."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """a1 of the paper: decay of the first moment in the local step."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """a2 of the paper: decay of the second moment in the local step."""
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled (AdamW): lr * weight_decay of the value is taken off each step."""
    clip: Annotated[float, Field(ge=0)] = 0.0
    """Largest gradient norm over the active block; 0 does not clip."""
    encoding: Encoding = "fp32"
    """How the block travels: fp32, or bf16-delta (changes with error feedback, half the bytes)."""
    overlay: str = "full"
    """full | ring | line | exponential | random:K | edges:NAME-NAME,... with names or id prefixes | edges:@FILE."""
    eval_every: Annotated[int, Field(ge=0)] = 0
    """Steps between evaluations on held-out data; 0 means at the end of every round."""

    @field_validator("schedule")
    @classmethod
    def _schedule_parses(cls, value: str) -> str:
        try:
            learning_rate(value, 1.0)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("overlay")
    @classmethod
    def _overlay_parses(cls, value: str) -> str:
        try:
            parse_overlay(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    def canonical(self) -> str:
        """All fields as JSON with sorted keys: what travels in Hello and is hashed."""
        return json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of protocol version and `canonical`, but for the chat template, which not every peer uses."""
        agreed = self.model_copy(update={"chat_template": ""}).canonical()
        return hashlib.sha256(f"decad/{PROTOCOL_VERSION}/{agreed}".encode()).hexdigest()

    def differences(self, other: RunSpec) -> dict[str, tuple[Any, Any]]:
        """Fields that differ: name -> (mine, theirs). Of a chat template both must make use."""
        mine, theirs = self.model_dump(), other.model_dump()
        differing = {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}
        if not (self.chat_template and other.chat_template):
            differing.pop("chat_template", None)
        return differing

    @classmethod
    def from_saved(cls, text: str) -> RunSpec:
        """What `canonical` gave, perhaps to an older version: fields that it did not have are as they are by default.

        Raises ValueError.
        """
        return cls.model_validate_json(text)


MEASURED_FIELDS = frozenset({"model_hash", "model_files", "plan_hash", "chat_template"})
"""Fields of RunSpec that come from the model directory, never from a setting."""
LOADED_FIELDS = MEASURED_FIELDS | {"task", "labels", "blocks", "freeze"}
"""Fields of RunSpec by which a model is loaded, before any peer is met: they are compared, never adopted."""


class PeerConfig(BaseModel):
    """What concerns this machine alone; never compared, never sent (but for ``name``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path | None = None
    """Hugging Face directory of the base model: config.json, tokenizer, safetensors."""
    data: Annotated[tuple[Path, ...], Field(min_length=1)] = ()
    """Files or directories of them. Private: they never leave this machine."""
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the data's bytes that may be left out because it cannot be used; the start stops where it is more."""
    state_dir: Path
    """Identity, checkpoints and the control socket of this peer."""
    listen: str = "127.0.0.1:0"
    """host:port on which peers may connect; port 0 picks a free one."""
    peers: tuple[str, ...] = ()
    """host:port of peers to dial; one that is reachable is enough."""
    name: Annotated[str, Field(max_length=64, pattern=NAME_PATTERN)] = ""
    """Shown to the other peers; empty shows the id."""
    steps: Annotated[int, Field(ge=0)] = 0
    """Stop once the run's step reaches this; 0 runs until stopped."""
    seq_len: Annotated[int | None, Field(ge=8, le=1 << 20)] = None
    """Tokens of one sequence; unset: 512, or what the model can take if that is less."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 4
    """Sequences of one step."""
    micro_batch: Annotated[int, Field(ge=0, le=65_536)] = 0
    """Sequences of one forward and backward pass; a batch of more is taken in parts. 0: the whole batch."""
    gradient_checkpointing: bool = False
    """Keep each layer's input alone and compute the rest again on the way back: less memory, more time."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:N | mps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """In which the model is held; auto: bfloat16 on cuda, else float32. The active block's master copy is fp32."""
    min_peers: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Neighbours to wait for before the first step."""
    mdns: bool = True
    """Announce and look for peers by multicast DNS."""
    interface: str = ""
    """Address or name of the network interface for mDNS; empty: those that match ``listen``."""
    insecure: bool = False
    """Allow links beyond this machine though they are neither encrypted nor authenticated."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Compute threads of torch; 0 leaves torch's choice."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the data kept aside for evaluation."""
    eval_batches: Annotated[int, Field(ge=1)] = 16
    """At most so many batches of held-out data in one evaluation."""

    @field_validator("listen", "peers")
    @classmethod
    def _addresses(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for address in (value,) if isinstance(value, str) else value:
            split_address(address)
        return value


NEEDED_SETTINGS = ("model", "data")
"""Without which no daemon starts; a program may have a model and data of its own."""
KNOWN_SETTINGS = (RunSpec.model_fields.keys() | PeerConfig.model_fields.keys()) - MEASURED_FIELDS


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port`` -> (host, port). Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is not host:port")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{address!r}: put an IPv6 address in brackets, as in [::1]:7700")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine itself can be meant; a name other than localhost never is."""
    return host in ("localhost", "::1") or host.startswith("127.")


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
            merged[key] = _listed(key, value) if isinstance(value, str) else value
            source[key] = named
    merged.setdefault("state_dir", default_state_dir())
    if (overlay := merged.get("overlay")) and str(overlay).startswith(EDGES_FILE):
        # Read here, so that the run spec holds the edges: a path means something to this machine alone.
        merged["overlay"] = read_edges(Path(overlay.removeprefix(EDGES_FILE)), source["overlay"])
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


def _listed(key: str, value: str) -> Any:
    """Lists are written with commas in variables, in flags, and as a bare string in TOML."""
    if key in ("peers", "data", "labels", "freeze"):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value
