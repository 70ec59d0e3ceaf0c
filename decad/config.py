"""What all peers of a run agree on (`RunSpec`) and what concerns this machine alone (`PeerConfig`).

Where their values come from is in decad/settings.py. No torch here: `decad status` imports this module.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from decad.core.constants import AdamConstants
from decad.core.overlay import parse_overlay
from decad.core.schedule import Schedule, earliest, learning_rate, training_end
from decad.errors import ConfigError
from decad.paths import user_path

PROTOCOL_VERSION = 2

NAME_PATTERN = r"^[\w.-]*$"
"""What a peer may be called: a word, since other machines show it on their terminals."""

MAX_NAME_CHARS = 64
"""Of a peer's name, and of a run's."""

MAX_HOST_CHARS = 253
"""The longest name that DNS knows."""

MAX_ADDRESS_CHARS = MAX_HOST_CHARS + len("[]:65535")
"""Of host:port."""

MAX_PEERS = 10_000
"""That a setting may speak of."""

Moments = Literal["rowwise", "gossip", "signal", "none"]
Encoding = Literal["fp32", "bf16-delta"]


class RunSpec(BaseModel):
    """What every peer of a run agrees on. Its fingerprint is compared before anything is exchanged.

    ``model_fields_set`` tells which fields this operator set; the others may be adopted from a peer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[\w.-]+$")] = "default"
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
    """layers | sublayers | a number | NAME=PATTERN,...;NAME=PATTERN,...: how the model is divided into blocks; none:
    adapters alone are trained."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters that are neither trained nor sent, such as model.embed_tokens or **.bias."""
    order: Literal["descending", "ascending", "shuffled"] = "descending"
    """Order in which a round visits the blocks; 0 is the input side."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the visiting order and the stochastic rounding; with the peer's name, of its data's split and order."""
    inner_steps: Annotated[int, Field(ge=1, le=100_000)] = 20
    """R: steps of one block phase."""
    lr: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Peak learning rate, per step; 0: what suits the model's width (`decad.model.rate`)."""
    schedule: str = "constant"
    """constant | linear:HORIZON[:FLOOR] | cosine:HORIZON[:FLOOR]; HORIZON in steps, FLOOR a share of lr."""
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Share of each phase in which the learning rate rises to that of the schedule; 0: it is there at once."""
    settle: Annotated[int, Field(ge=0, le=1000)] = 8
    """Once a schedule that falls to zero is at its end: steps in which each block is mixed and not trained, so that all
    end with one model. Then the run is over. 0: neither."""
    adapters: Annotated[int, Field(ge=0, le=1024)] = 0
    """Rank of low-rank adapters on every linear layer, trained and mixed in each step beside the block; 0: none."""
    adapter_lr: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Peak learning rate of the adapters; 0: what suits the model's width."""
    moments: Moments = "rowwise"
    """Moment rule (docs/theory.md)."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = AdamConstants.a1
    """a1 of the paper: decay of the first moment in the local step."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = AdamConstants.a2
    """a2 of the paper: decay of the second moment in the local step."""
    eps: Annotated[float, Field(gt=0, le=1)] = AdamConstants.eps
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled (AdamW): lr * weight_decay of the value is taken off each step."""
    clip: Annotated[float, Field(ge=0)] = 0.0
    """Largest gradient norm over the active block; 0 does not clip."""
    encoding: Encoding = "fp32"
    """How the block travels: fp32, or bf16-delta (changes with error feedback, half the bytes)."""
    robust: Literal["none", "clip", "median", "trimmed"] = "none"
    """Against faulty members: clip bounds how far one neighbour pulls; median, trimmed: order statistics of values."""
    overlay: str = "full"
    """full | ring | line | exponential | random:K | erdos:P | edges:NAME-NAME,... with names or id prefixes |
    edges:@FILE."""
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

    def settled(self, **values: Any) -> RunSpec:
        """With ``values`` that nobody set, but found."""
        fields = {name: getattr(self, name) for name in RunSpec.model_fields}
        return RunSpec.model_construct(_fields_set=set(self.model_fields_set), **{**fields, **values})

    def calendar(self, blocks: int, brought_forward: int = 0) -> Schedule:
        """When which of so many blocks is trained or only mixed; ``brought_forward``: an earlier end, 0 for none."""
        end = earliest(training_end(self.schedule), brought_forward)
        return Schedule(blocks, self.inner_steps, self.order, self.seed, end, self.settle)

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
LOADED_FIELDS = MEASURED_FIELDS | {"task", "labels", "blocks", "freeze", "adapters"}
"""Fields of RunSpec by which a model is loaded, before any peer is met: they are compared, never adopted."""
LOADING_FIELDS = LOADED_FIELDS - MEASURED_FIELDS
"""Those of them that are settings: every peer has to set them alike."""


def loading(spec: RunSpec) -> dict[str, str]:
    """The `LOADING_FIELDS` that are not the defaults, as flags have them."""
    plain, fields = RunSpec().model_dump(), spec.model_dump(include=set(LOADING_FIELDS))
    return {
        name: ",".join(value) if isinstance(value, tuple) else str(value)
        for name, value in sorted(fields.items())
        if value != plain[name]
    }


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
    secret: Path | None = None
    """File of the run's secret: whoever has it is a member. Unset: ``secret`` in the state directory, if it exists."""
    tls_ca: Path | None = None
    """The site's own certificate authority (PEM), in the place of a secret; with tls_cert and tls_key."""
    tls_cert: Path | None = None
    """This machine's certificate of that authority (PEM), with what is between the two. Read anew when it changes."""
    tls_key: Path | None = None
    """The key of tls_cert (PEM, without a password)."""
    tls_name: str = "decad"
    """DNS name that the certificates of all members have, and no other certificate of that authority."""
    listen: str | None = None
    """host:port on which peers may connect; port 0 picks a free one. Unset: 0.0.0.0:0 with a secret or certificates,
    127.0.0.1:0 without."""
    peers: tuple[str, ...] = ()
    """host:port of peers to dial; one that is reachable is enough."""
    name: Annotated[str, Field(max_length=MAX_NAME_CHARS, pattern=NAME_PATTERN)] = ""
    """Shown to the other peers; empty shows the id."""
    steps: Annotated[int, Field(ge=0)] = 0
    """Stop once the run's step reaches this; 0 runs until stopped."""
    seq_len: Annotated[int | None, Field(ge=8, le=1 << 20)] = None
    """Tokens of one sequence; unset: 512, or what the model can take if that is less."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 4
    """Sequences of one step."""
    micro_batch: Annotated[int, Field(ge=0, le=65_536)] = 0
    """Sequences of one forward and backward pass; a batch of more is taken in parts. 0: the whole batch."""
    dp_noise: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Differential privacy of this machine's examples: noise on each step's gradient, in clipping norms; 0: none."""
    dp_clip: Annotated[float, Field(gt=0)] = 1.0
    """With dp_noise: the largest norm of one example's gradient."""
    gradient_checkpointing: bool = False
    """Keep each layer's input alone and compute the rest again on the way back: less memory, more time."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:N | mps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """In which the model is held; auto: bfloat16 on cuda, else float32. The active block's master copy is fp32."""
    min_peers: Annotated[int, Field(ge=0, le=MAX_PEERS)] = 0
    """Neighbours to wait for before the first step."""
    mdns: bool = True
    """Announce and look for peers by multicast DNS."""
    interface: str = ""
    """Address or name of the network interface for mDNS; empty: those that match ``listen``."""
    insecure: bool = False
    """Allow links beyond this machine without a secret or certificates: anybody who reaches the port is a peer."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Compute threads of torch; 0 leaves torch's choice."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the data kept aside for evaluation."""
    eval_batches: Annotated[int, Field(ge=1)] = 16
    """At most so many batches of held-out data in one evaluation."""

    @field_validator("model", "data", "state_dir", "secret", "tls_ca", "tls_cert", "tls_key")
    @classmethod
    def _paths(cls, value: Path | tuple[Path, ...] | None) -> Path | tuple[Path, ...] | None:
        if isinstance(value, tuple):
            return tuple(map(user_path, value))
        return None if value is None else user_path(value)

    @field_validator("listen", "peers")
    @classmethod
    def _addresses(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        for address in (value,) if isinstance(value, str) else value or ():
            split_address(address)
        return value


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
