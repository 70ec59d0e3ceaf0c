"""What one lab run is: read from TOML, kept in its run directory, and enough to run it again."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field, model_validator

from decad.config import MAX_PEERS, MEASURED_FIELDS, RunSpec
from decad.errors import ConfigError
from decad.lab.attacks import Kind
from decad.lab.runs import CONFIG
from decad.settings import EDGES_FILE, read_edges

Value = str | int | float | bool


class Experiment(BaseModel):
    """One method on one task with one seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    """For people; shown in reports."""
    method: str = "deca"
    """A key of `decad.lab.methods.METHODS`."""
    options: Mapping[str, Value] = Field(default_factory=dict)
    """Of the method: the fields of its class."""
    model: Path
    """Hugging Face directory of the base model."""
    data: Annotated[tuple[Path, ...], Field(min_length=1)]
    """A file or directory a domain."""
    partition: str = "domain"
    """How the data is divided among the peers: see `decad.lab.partition`."""
    peers: Annotated[int, Field(ge=1, le=MAX_PEERS)] = 4
    names: tuple[str, ...] = ()
    """Of the peers; with the seed a name decides on a peer's split and order, as it does in the daemon."""
    ids: tuple[str, ...] = ()
    """Of the peers, which give their order in the overlay; empty: their names."""
    faults: tuple[str, ...] = ()
    """Who is away or late, and when: see `decad.lab.faults`."""
    attack: Kind = "none"
    """What the attackers do: see `decad.lab.attacks`."""
    attackers: tuple[str, ...] = ()
    """Names of the peers that attack; the figures are those of the others."""
    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = 4
    """Sequences or examples of one peer's step."""
    micro_batch: Annotated[int, Field(ge=0)] = 0
    dp_noise: Annotated[float, Field(ge=0)] = 0.0
    dp_clip: Annotated[float, Field(gt=0)] = 1.0
    """Differential privacy of each peer's examples: see `decad.core.privacy`."""
    seq_len: Annotated[int, Field(ge=8)] = 128
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of each peer's data that is kept aside; all models are evaluated on that of all peers together."""
    eval_every: Annotated[int, Field(ge=1)] = 20
    """Steps between evaluations."""
    eval_units: Annotated[int, Field(ge=1)] = 256
    """Held-out sequences or examples of one evaluation, evenly from all peers."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: Annotated[int, Field(ge=0)] = 0
    """Compute threads of torch; 0 leaves torch's choice."""
    spec: RunSpec = RunSpec()
    """What a daemon's run would agree on."""

    @computed_field  # type: ignore[prop-decorator]  # as pydantic's documentation has it
    @property
    def seed(self) -> int:
        return self.spec.seed

    @model_validator(mode="after")
    def _attackers_are_peers(self) -> Self:
        unknown = set(self.attackers) - set(self.peer_names())
        if unknown:
            raise ValueError(
                f"attackers: there is no peer {min(unknown)!r}; there are {', '.join(self.peer_names())}"
            )
        if bool(self.attackers) != (self.attack != "none"):
            raise ValueError("attack and attackers belong together: what is done, and by whom")
        if len(set(self.attackers)) == self.peers:
            raise ValueError("attackers: somebody must be honest")
        return self

    def peer_names(self) -> tuple[str, ...]:
        width = len(str(self.peers - 1))
        return self.names or tuple(f"p{place:0{width}d}" for place in range(self.peers))

    def peer_ids(self) -> tuple[str, ...]:
        return self.ids or self.peer_names()


OWN_KEYS = Experiment.model_fields.keys() - {"spec"}
SPEC_KEYS = RunSpec.model_fields.keys() - MEASURED_FIELDS - {"run", "eval_every"}


def read_experiment(file: Path, settings: Sequence[str] = ()) -> Experiment:
    """A TOML file whose keys are those of `Experiment` and `RunSpec`; ``settings``: ``KEY=VALUE`` that win over it.

    Paths are relative to the file. A method's options are a table ``[options]``, or ``options.KEY=VALUE``. Raises
    ConfigError.
    """
    values = from_file(file)
    return make_experiment({**values, **_parsed(settings, values)}, str(file))


def from_file(file: Path) -> dict[str, Any]:
    """The settings of a TOML file, its paths relative to it. Raises ConfigError."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}. Give a TOML file of an experiment.") from None
    for key in ("model", "data"):
        if key in values:
            listed = values[key] if isinstance(values[key], list) else [values[key]]
            paths = [(file.parent / Path(str(path)).expanduser()).resolve() for path in listed]
            values[key] = paths if key == "data" else paths[0]
    if str(values.get("overlay")).startswith(EDGES_FILE):
        edges = file.parent / Path(values["overlay"].removeprefix(EDGES_FILE)).expanduser()
        values["overlay"] = read_edges(edges, str(file))
    return values


def make_experiment(values: Mapping[str, Any], source: str = "experiment") -> Experiment:
    """An experiment of flat settings. Raises ConfigError."""
    if unknown := values.keys() - OWN_KEYS - SPEC_KEYS:
        raise ConfigError(
            f"{source}: there is no setting {min(unknown)}. Use some of {', '.join(sorted(OWN_KEYS | SPEC_KEYS))}."
        )
    own = {key: value for key, value in values.items() if key in OWN_KEYS}
    try:
        spec = RunSpec(**{key: value for key, value in values.items() if key in SPEC_KEYS})
        made = Experiment(**own, spec=spec)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{source}: {key} is not accepted: {first['msg']}.") from None
    for key, given in (("names", made.names), ("ids", made.ids)):
        if given and (len(given) != made.peers or len(set(given)) != made.peers):
            raise ConfigError(
                f"{source}: {key} lists {len(set(given))} different peers, and there are {made.peers}."
            )
    return made


def load_experiment(directory: Path) -> Experiment:
    """That of a run directory. Raises ConfigError."""
    file = directory / CONFIG
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        record.pop("seed", None)
        return Experiment.model_validate(record)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{directory} is no run directory of decad lab: {error}.") from None


def _parsed(settings: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """``KEY=VALUE`` as TOML has it; what is no TOML is a string, and commas divide the lists."""
    made: dict[str, Any] = {"options": dict(values.get("options", {}))}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: write KEY=VALUE.")
        if key.startswith("options."):
            made["options"][key.removeprefix("options.")] = _value(text)
        elif key in _LISTS:
            made[key] = tuple(part.strip() for part in text.split(",") if part.strip())
        else:
            made[key] = _value(text)
    return made


_LISTS = frozenset({"data", "names", "ids", "faults", "attackers", "labels", "freeze"})


def _value(text: str) -> Value:
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, str | int | float | bool) else text
