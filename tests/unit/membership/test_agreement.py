from __future__ import annotations

import pytest

from decad.config import RunSpec
from decad.errors import ProtocolError
from decad.membership.agreement import (
    MAX_SPEC_CHARS,
    Adopt,
    Difference,
    Keep,
    Refuse,
    agree,
    parse_set_fields,
    parse_spec,
    refusal_text,
)

LOW, HIGH = "1" * 64, "f" * 64
DEFAULTS = RunSpec(model_hash="m")
TUNED = RunSpec(model_hash="m", lr=3e-4)


def test_equal_specs_are_kept() -> None:
    assert agree(DEFAULTS, set(), True, LOW, DEFAULTS, set(), True, HIGH) == Keep()


def test_peer_without_the_field_adopts_and_takes_over_what_counts_as_set() -> None:
    verdict = agree(DEFAULTS, {"seed"}, False, LOW, TUNED, {"lr"}, True, HIGH)
    assert verdict == Adopt(TUNED, frozenset({"seed", "lr"}))


def test_peer_that_set_the_field_keeps() -> None:
    assert agree(TUNED, {"lr"}, False, HIGH, DEFAULTS, set(), False, LOW) == Keep()


@pytest.mark.parametrize(
    ("me", "other", "expected"), [(HIGH, LOW, Adopt(TUNED, frozenset())), (LOW, HIGH, Keep())]
)
def test_of_two_that_could_the_larger_id_adopts(me: str, other: str, expected: Adopt | Keep) -> None:
    assert agree(DEFAULTS, set(), False, me, TUNED, set(), False, other) == expected


def test_who_has_taken_a_step_never_adopts() -> None:
    assert isinstance(agree(DEFAULTS, set(), True, LOW, TUNED, {"lr"}, False, HIGH), Refuse)


def test_one_set_field_among_the_differing_is_enough_to_refuse() -> None:
    mine, theirs = RunSpec(lr=2e-4), RunSpec(lr=3e-4, seed=7)
    verdict = agree(mine, {"lr"}, False, LOW, theirs, {"lr", "seed"}, False, HIGH)
    assert verdict == Refuse((Difference("lr", "0.0002", "0.0003"),))


def test_fields_that_each_set_alone_are_refused_too() -> None:
    mine, theirs = RunSpec(lr=2e-4), RunSpec(seed=7, clip=1.0)
    verdict = agree(mine, {"lr"}, False, LOW, theirs, {"seed"}, False, HIGH)
    assert verdict == Refuse((Difference("lr", "0.0002", "0.0"), Difference("seed", "0", "7")))


def test_a_refusal_leaves_out_what_could_be_adopted() -> None:
    joiner, running = RunSpec(run="other"), RunSpec(run="one", lr=3e-4, seed=7)
    expected = Refuse((Difference("run", "other", "one"),))
    assert agree(joiner, {"run"}, False, LOW, running, {"run", "lr"}, True, HIGH) == expected
    assert agree(running, {"run", "lr"}, True, HIGH, joiner, {"run"}, False, LOW) == Refuse(
        (Difference("run", "one", "other"),)
    )


@pytest.mark.parametrize("field", ["model_hash", "plan_hash"])
def test_what_was_measured_cannot_be_adopted(field: str) -> None:
    mine, theirs = RunSpec.model_validate({field: "a"}), RunSpec.model_validate({field: "b"})
    verdict = agree(mine, set(), False, LOW, theirs, set(), False, HIGH)
    assert verdict == Refuse((Difference(field, "a", "b"),))


def test_spec_survives_the_journey() -> None:
    spec = RunSpec(run="demo", model_hash="m", lr=3e-4, overlay="edges:a-b,b-c", schedule="linear:1200:0.1")
    assert parse_spec(spec.canonical()).fingerprint == spec.fingerprint


CANONICAL = DEFAULTS.canonical()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("\ud800", id="no Unicode"),
        pytest.param("[" * 100_000, id="deep"),
        pytest.param("null", id="no object"),
        pytest.param("{}", id="fields missing"),
        pytest.param(CANONICAL.replace('"seed":0', '"seed":0,"seed":0'), id="field twice"),
        pytest.param(CANONICAL.replace('"seed":0', '"seed":0,"zeal":1'), id="unknown field"),
        pytest.param(CANONICAL.replace('"lr":0.0', '"lr":0e0'), id="respelt"),
        pytest.param(CANONICAL.replace('"lr":0.0', '"lr":NaN'), id="not a number"),
        pytest.param(CANONICAL.replace('"seed":0', '"seed":' + "9" * 10_000), id="huge number"),
        pytest.param(CANONICAL.replace("constant", "linear:" + "9" * 10_000), id="huge horizon"),
        pytest.param(CANONICAL.replace("constant", "linear"), id="no horizon"),
        pytest.param(CANONICAL + " " * MAX_SPEC_CHARS, id="too long"),
    ],
)
def test_nonsense_is_a_protocol_error_of_bounded_length(text: str) -> None:
    with pytest.raises(ProtocolError) as raised:
        parse_spec(text)
    assert len(str(raised.value)) < 250


def test_set_fields_must_exist() -> None:
    assert parse_set_fields(["lr", "lr", "run"]) == {"lr", "run"}
    with pytest.raises(ProtocolError, match="zeal"):
        parse_set_fields(["lr", "zeal"])


@pytest.mark.parametrize(
    ("field", "advice"),
    [
        ("model_hash", "same --model directory"),
        ("plan_hash", "same version"),
        ("run", "same --run"),
        ("protocol_version", "upgrade the older"),
        ("lr", "same settings"),
    ],
)
def test_refusal_names_peer_field_both_values_and_what_to_do(field: str, advice: str) -> None:
    text = refusal_text(HIGH, [Difference(field, "mine", "theirs")])
    assert text.startswith(
        f"Peer ffffffff cannot train with this one: {field} is mine here and theirs there."
    )
    assert advice in text
    assert "\n" not in text


def test_refusal_cannot_be_abused_to_write_on_the_terminal() -> None:
    text = refusal_text(HIGH, [Difference("overlay", "full", "edges:\x1b[2J-" + "b" * 10_000)])
    assert text.isprintable()
    assert len(text) < 400
