"""Every setting, in every form in which people write it, from every source: the same value or a clear refusal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import decad.cli.start
from decad.cli.main import cli
from decad.config import MEASURED_FIELDS, PeerConfig, RunSpec
from decad.errors import ConfigError
from decad.settings import LISTS, NUMBERS, load_settings

HOME = Path("/home/anna")

FORMS: dict[str, tuple[Any, list[str], list[str]]] = {
    "run": ("7", ["7"], ["7", '"7"', '" 7 "']),
    "task": ("causal-lm", ["causal-lm"], ['"causal-lm"']),
    "labels": (("0", "1"), ["0,1", " 0 , 1 "], ["[0, 1]", '["0", "1"]', '"0,1"', '"0, 1"']),
    "blocks": ("4", ["4"], ["4", '"4"']),
    "freeze": (("a", "**.b"), ["a,**.b"], ['["a", "**.b"]', '"a,**.b"']),
    "order": ("shuffled", ["shuffled"], ['"shuffled"']),
    "seed": (7, ["7", " 7 "], ["7", '"7"', "7.0"]),
    "inner_steps": (50, ["50", "5_0"], ["50", "5_0", '"50"']),
    "lr": (1e-4, ["1e-4", "0.0001"], ["1e-4", "0.0001", '"1e-4"']),
    "schedule": ("linear:100", ["linear:100"], ['"linear:100"']),
    "warmup": (1.0, ["1", "1.0"], ["1", "1.0", '"1"']),
    "settle": (6, ["6"], ["6", '"6"']),
    "adapters": (8, ["8"], ["8", '"8"']),
    "adapter_lr": (2e-3, ["2e-3"], ["2e-3", '"0.002"']),
    "moments": ("none", ["none"], ['"none"']),
    "beta1": (0.5, ["0.5", ".5"], ["0.5", '".5"']),
    "beta2": (0.5, ["0.5"], ["0.5"]),
    "eps": (1e-6, ["1e-6"], ["1e-6"]),
    "weight_decay": (0.5, ["0.5"], ["0.5"]),
    "clip": (1.0, ["1"], ["1", "1.0"]),
    "encoding": ("bf16-delta", ["bf16-delta"], ['"bf16-delta"']),
    "robust": ("clip", ["clip"], ['"clip"']),
    "overlay": ("ring", ["ring"], ['"ring"']),
    "eval_every": (5, ["5"], ["5", '"5"']),
    "model": (HOME / "m", ["~/m", "/home/anna/m"], ['"~/m"', '"/home/anna/m"']),
    "data": ((HOME / "a", Path("b c")), ["~/a,b c", "~/a, b c"], ['["~/a", "b c"]', '"~/a,b c"']),
    "max_bad": (0.2, ["0.2"], ["0.2", '"0.2"']),
    "state_dir": (HOME / "s", ["~/s"], ['"~/s"']),
    "secret": (HOME / "x", ["~/x"], ['"~/x"']),
    "tls_ca": (HOME / "x", ["~/x"], ['"~/x"']),
    "tls_cert": (HOME / "x", ["~/x"], ['"~/x"']),
    "tls_key": (HOME / "x", ["~/x"], ['"~/x"']),
    "tls_name": ("decad.example", ["decad.example"], ['"decad.example"']),
    "listen": ("[::1]:7700", ["[::1]:7700"], ['"[::1]:7700"']),
    "peers": (("a:1", "[::1]:2"), ["a:1,[::1]:2", "a:1, [::1]:2"], ['["a:1", "[::1]:2"]', '"a:1, [::1]:2"']),
    "name": ("5", ["5"], ["5", '"5"']),
    "steps": (9, ["9"], ["9", '"9"']),
    "seq_len": (64, ["64"], ["64", '"64"']),
    "batch_size": (2, ["2"], ["2", '"2"']),
    "micro_batch": (2, ["2"], ["2", '"2"']),
    "dp_noise": (0.5, ["0.5"], ["0.5", '"0.5"']),
    "dp_clip": (2.0, ["2"], ["2.0", '"2"']),
    "gradient_checkpointing": (True, ["1", "yes", "on", "TRUE"], ["true", '"yes"', "1"]),
    "device": ("cpu", ["cpu"], ['"cpu"']),
    "dtype": ("float32", ["float32"], ['"float32"']),
    "min_peers": (2, ["2"], ["2", '"2"']),
    "mdns": (False, ["0", "no", "off", "False"], ["false", '"no"', "0"]),
    "interface": ("eth0", ["eth0"], ['"eth0"']),
    "insecure": (True, ["1", "yes"], ["true", '"on"']),
    "threads": (2, ["2"], ["2", '"2"']),
    "held_out": (0.5, ["0.5"], ["0.5"]),
    "eval_batches": (3, ["3"], ["3"]),
}
"""Setting -> its value, and how it is written as text and in TOML."""
SWITCHES = {"gradient_checkpointing", "mdns", "insecure"}


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(HOME))
    monkeypatch.chdir(tmp_path)


def value_of(settings: tuple[RunSpec, PeerConfig], key: str) -> Any:
    found: Any = settings[0] if key in RunSpec.model_fields else settings[1]
    return getattr(found, key)


def flags(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `decad start` makes of its flags."""
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(decad.cli.start, "start_daemon", lambda flags, config, debug: given.append(flags))
    done = CliRunner().invoke(cli, ["start", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return given[0]


def every(place: int) -> Iterable[Any]:
    return [
        pytest.param(key, text, id=f"{key}={text}") for key, forms in FORMS.items() for text in forms[place]
    ]


def test_every_setting_is_here() -> None:
    assert FORMS.keys() == (RunSpec.model_fields.keys() | PeerConfig.model_fields.keys()) - MEASURED_FIELDS


@pytest.mark.parametrize(("key", "text"), every(1))
def test_a_variable(key: str, text: str) -> None:
    assert value_of(load_settings({}, None, {f"DECAD_{key.upper()}": text}, ()), key) == FORMS[key][0]


@pytest.mark.parametrize(("key", "text"), every(2))
def test_a_line_of_the_file(key: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "decad.toml").write_text(f"{key} = {text}\n")
    assert value_of(load_settings({}, None, {}, ()), key) == FORMS[key][0]


@pytest.mark.parametrize(("key", "text"), [param for param in every(1) if param.values[0] not in SWITCHES])
def test_a_flag(key: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = flags(f"--{key.replace('_', '-')}={text}", monkeypatch=monkeypatch)
    assert value_of(load_settings(given, None, {}, ()), key) == FORMS[key][0]


@pytest.mark.parametrize("key", sorted(SWITCHES))
def test_a_switch(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = FORMS[key][0]
    given = flags(f"--{'' if value else 'no-'}{key.replace('_', '-')}", monkeypatch=monkeypatch)
    assert value_of(load_settings(given, None, {}, ()), key) is value


@pytest.mark.parametrize("key", sorted(LISTS))
def test_a_list_may_be_given_as_several_flags(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = FORMS[key][1][0].split(",")
    given = flags(*(f"--{key}={part}" for part in text), monkeypatch=monkeypatch)
    assert value_of(load_settings(given, None, {}, ()), key) == FORMS[key][0]


@pytest.mark.parametrize("key", FORMS)
def test_an_empty_value_is_the_default_whatever_the_file_says(key: str, tmp_path: Path) -> None:
    """As where a container is given variables that its operator left empty."""
    (tmp_path / "decad.toml").write_text(f"{key} = {FORMS[key][2][0]}\n")
    (tmp_path / "empty.toml").write_text("")
    default = value_of(load_settings({}, tmp_path / "empty.toml", {}, ()), key)
    assert value_of(load_settings({}, None, {f"DECAD_{key.upper()}": ""}, ()), key) == default


@pytest.mark.parametrize("key", FORMS)
def test_what_can_be_no_value_is_refused_with_its_source(key: str, tmp_path: Path) -> None:
    (tmp_path / "decad.toml").write_text(f"{key} = {{ a = 1 }}\n")
    with pytest.raises(ConfigError, match=rf"^{key} \(in decad.toml\) = "):
        load_settings({}, None, {}, ())


@pytest.mark.parametrize("key", sorted(NUMBERS))
def test_words_are_no_numbers(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^DECAD_{key.upper()} .* = 'a few' is not accepted: it should"):
        load_settings({}, None, {f"DECAD_{key.upper()}": "a few"}, ())
