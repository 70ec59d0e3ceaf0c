"""The file of the run's secret, and the authority that follows from it."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decad.errors import ConfigError
from decad.trust.authority import Authority
from decad.trust.secret import RunSecrets, from_text, new_secret, read_secrets, to_text, write_secrets

ADMIN = "ab" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "secret"


def test_what_was_written_is_read(path: Path) -> None:
    kept = RunSecrets((new_secret(), new_secret()), (ADMIN,))
    write_secrets(path, kept, replace=False)
    assert read_secrets(path) == kept
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_secret_is_never_written_over_another(path: Path) -> None:
    kept = RunSecrets((new_secret(),), ())
    write_secrets(path, kept, replace=False)
    with pytest.raises(ConfigError, match=r"There is a secret .* already"):
        write_secrets(path, RunSecrets((new_secret(),), ()), replace=False)
    assert read_secrets(path) == kept


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o601])
def test_a_secret_that_others_can_read_is_refused(path: Path, mode: int) -> None:
    write_secrets(path, RunSecrets((new_secret(),), ()), replace=False)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=r"can be read by other users .* chmod 600"):
        read_secrets(path)


def test_a_missing_secret_is_told_how_to_be_had(path: Path) -> None:
    with pytest.raises(ConfigError, match="decad secret new"):
        read_secrets(path)


@given(st.integers(0, 56), st.sampled_from(string.ascii_lowercase + "234567"))
def test_a_slip_of_the_hand_is_noticed_and_the_secret_not_told(place: int, letter: str) -> None:
    line = to_text(bytes(range(32)))
    at = len("decad-secret-1 ") + place
    wrong = line[:at] + letter + line[at + 1 :]
    if wrong == line:
        return
    with pytest.raises(ValueError, match=r"^it is not a secret, or was copied with a mistake$"):
        from_text(wrong)


@given(st.binary(max_size=300))
def test_whatever_the_file_holds_is_a_secret_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    path = tmp_path_factory.mktemp("secret") / "secret"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        read_secrets(path)


def test_members_derive_one_authority_and_others_another() -> None:
    secret = new_secret()
    assert Authority(secret).name == Authority(secret).name != Authority(new_secret()).name
