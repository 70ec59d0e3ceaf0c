"""The methods that are compared, a small file each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from decad.errors import ConfigError
from decad.lab.experiment import Value
from decad.lab.methods.badam import BAdam
from decad.lab.methods.base import Method
from decad.lab.methods.dec_lora import DecLora
from decad.lab.methods.deca import Deca
from decad.lab.methods.fedavg import FedAvg
from decad.lab.methods.gossip import GossipAdam
from decad.lab.methods.local import Local
from decad.lab.methods.pooled import Pooled

METHODS: Mapping[str, type[Method]] = {
    "deca": Deca,
    "gossip": GossipAdam,
    "dec-lora": DecLora,
    "fedavg": FedAvg,
    "local": Local,
    "pooled": Pooled,
    "badam": BAdam,
}


def method(name: str, options: Mapping[str, Value]) -> Method:
    """The method of this name. Raises ConfigError."""
    if name not in METHODS:
        raise ConfigError(f"method {name!r} is not known. Use one of {', '.join(METHODS)}.")
    kind = METHODS[name]
    known = {field.name: field.default for field in fields(kind)}
    for key, value in options.items():
        if key not in known or (
            type(value) is not type(known[key])
            and not (isinstance(known[key], float) and isinstance(value, int))
        ):
            listed = ", ".join(f"{name} (such as {default!r})" for name, default in known.items()) or "none"
            raise ConfigError(
                f"method {name}: option {key} = {value!r} is not accepted. Its options: {listed}."
            )
    return kind(**options)
