"""Whether two peers can train together: what each concludes from the other's Hello.

Both ends compute this from the same two run specs and must come to answers that fit together
(docs/protocol.md, "Run spec"): one adopts and the other keeps, or both keep, or both refuse.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import ValidationError

from decad.config import LOADED_FIELDS, RunSpec
from decad.errors import ProtocolError
from decad.membership.identity import short_id

MAX_SPEC_CHARS = 1 << 18
"""Bound of a spec's JSON in characters: all fields together are under 1000, but for an overlay that lists its
edges, of which this leaves room for some thousands."""

MAX_SHOWN = 64
"""Characters of a peer's value that a message repeats: a whole SHA-256."""


ABSENT = "the default"
"""A key of a model's file that is not there, or has its usual value."""


class Difference(NamedTuple):
    """One thing on which two peers disagree, as text for people: a field of the run spec, a key of one of the model's
    files (``config.json hidden_size``), or the protocol version."""

    field: str
    mine: str
    theirs: str


@dataclass(frozen=True)
class Keep:
    """My spec stands; the other's is the same or will be."""


@dataclass(frozen=True)
class Adopt:
    """Take ``spec``, the other's, as my own. ``set_fields`` is what both operators set."""

    spec: RunSpec
    set_fields: frozenset[str]


@dataclass(frozen=True)
class Refuse:
    """The two cannot train together; both ends come to this, each naming its own value first."""

    fields: tuple[Difference, ...]


def agree(
    mine: RunSpec,
    mine_set: Collection[str],
    mine_trained: bool,
    my_id: str,
    theirs: RunSpec,
    their_set: Collection[str],
    their_trained: bool,
    their_id: str,
) -> Keep | Adopt | Refuse:
    """What I do about another peer's spec.

    ``*_set``: fields that the operator set (or that were adopted as such); ``*_trained``: has taken a step.
    A peer that has taken no step, and none of whose differing fields are set, adopts the other's; if both
    could, the larger id. What the model was loaded by counts as set: a peer cannot adopt a model that it does not
    have, nor divide one that it has loaded in another way.
    """
    differing = mine.differences(theirs)
    if mine.fingerprint == theirs.fingerprint and "chat_template" not in differing:
        return Keep()
    i_hold = set(differing) if mine_trained else differing.keys() & (LOADED_FIELDS | set(mine_set))
    they_hold = set(differing) if their_trained else differing.keys() & (LOADED_FIELDS | set(their_set))
    if not i_hold and (they_hold or my_id > their_id):
        own = theirs.model_copy(update={"chat_template": mine.chat_template})
        return Adopt(own, frozenset(mine_set) | frozenset(their_set))
    if not they_hold:
        return Keep()
    # What only one of us holds to, the other could adopt, were it not for these.
    contested = i_hold & they_hold or i_hold | they_hold
    return Refuse(tuple(told for f in sorted(contested) for told in told_apart(f, *differing[f])))


def told_apart(field: str, mine: Any, theirs: Any) -> list[Difference]:
    """A field that differs, for people; of the model's files every key that does."""
    if field == "chat_template":
        field = "tokenizer_config.json chat_template"
    if not isinstance(mine, dict):
        return [Difference(field, _text(mine), _text(theirs))]
    keys = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
    return [Difference(key, *(_text(files.get(key, ABSENT)) for files in (mine, theirs))) for key in keys]


def parse_spec(text: str) -> RunSpec:
    """The run spec of a peer's Hello. Raises ProtocolError unless it is canonical JSON with every field
    valid.

    All fields of the result count as set for pydantic; which ones the other's operator set travels beside
    it (`parse_set_fields`).
    """
    if len(text) > MAX_SPEC_CHARS:
        raise ProtocolError(
            f"The peer's run spec is {len(text)} characters long; at most {MAX_SPEC_CHARS} are allowed."
        )
    try:
        spec = RunSpec.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(_text(part) for part in first["loc"]) or "the whole"
        reason = _text(first["msg"].removeprefix("Value error, "))
        raise ProtocolError(f"The peer's run spec is not valid at {place}: {reason}.") from None
    except ValueError:
        raise ProtocolError("The peer's run spec is not text in Unicode.") from None
    # Fingerprints are taken over the canonical form, so any other would be compared as something that
    # nobody sent.
    if spec.canonical() != text:
        raise ProtocolError(
            "The peer's run spec is not in canonical form: a field is missing, repeated or respelt."
        )
    return spec


def parse_set_fields(names: Collection[str]) -> frozenset[str]:
    """The names of the fields that a peer's operator set. Raises ProtocolError when one is no field of a
    run spec."""
    fields = frozenset(names)
    if unknown := fields - RunSpec.model_fields.keys():
        raise ProtocolError(f"The peer's run spec has no field {_text(min(unknown))}, which it says was set.")
    return fields


def refusal_text(their_id: str, fields: Collection[Difference]) -> str:
    """One paragraph for the operator: who, every field with both values, and what to do."""
    listed = "; ".join(
        f"{_text(f.field)} is {_text(f.mine)} here and {_text(f.theirs)} there" for f in fields
    )
    advice = _advice({f.field for f in fields})
    return f"Peer {short_id(their_id)} cannot train with this one: {listed}. {advice}"


def _advice(fields: set[str]) -> str:
    if "protocol_version" in fields:
        return "The two run different versions of decad: upgrade the older one."
    if "model_hash" in fields:
        return "The base models differ: give both machines the same --model directory, byte for byte."
    if any(".json " in field for field in fields):
        return (
            "The weights are the same, but not what they mean: give both machines the same --model directory, with its "
            "config.json and tokenizer."
        )
    if fields & LOADED_FIELDS - {"plan_hash"}:
        return (
            "By these a model is loaded, before any peer is met: start both with the same --task, --labels, --blocks "
            "and --freeze."
        )
    if "plan_hash" in fields:
        return "The same model was divided differently: run the same version of decad on both machines."
    if fields == {"run"}:
        return (
            "They belong to different runs: start both with the same --run, or leave it so if that is meant."
        )
    return (
        "Start both with the same settings, or leave them unset on one: a peer that has taken no step yet "
        "adopts what the other's operator set."
    )


def _text(value: Any) -> str:
    """As JSON, so that nothing a peer sends can move the terminal's cursor, and shortened."""
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) > MAX_SHOWN:
        text = f"{text[:MAX_SHOWN]}..."
    return text if text and text.isprintable() else json.dumps(text)
