from __future__ import annotations

import hashlib
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from decad.errors import StateError
from decad.membership.identity import KEY_FILE, load_or_create, peer_id_of, short_id


def _pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_first_start_makes_a_key_that_only_the_user_can_read(tmp_path: Path) -> None:
    state = tmp_path / "new" / "state"
    load_or_create(state)
    assert stat.S_IMODE((state / KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in state.iterdir()] == [KEY_FILE], "a draft was left behind"


def test_later_starts_keep_the_id(tmp_path: Path) -> None:
    assert load_or_create(tmp_path).peer_id == load_or_create(tmp_path).peer_id


def test_two_state_directories_are_two_peers(tmp_path: Path) -> None:
    assert load_or_create(tmp_path / "a").peer_id != load_or_create(tmp_path / "b").peer_id


def test_id_is_the_hash_of_the_public_key(tmp_path: Path) -> None:
    identity = load_or_create(tmp_path)
    public = identity.key.public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert identity.peer_id == hashlib.sha256(der).hexdigest() == peer_id_of(public)


def test_short_id_is_the_beginning() -> None:
    assert short_id("0123456789abcdef") == "01234567"


def test_starts_at_the_same_moment_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: load_or_create(tmp_path).peer_id, range(16)))
    assert len(ids) == 1


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not a key", id="no PEM"),
        pytest.param(_pem(ec.generate_private_key(ec.SECP256R1()))[:90], id="cut short"),
        pytest.param(_pem(ec.generate_private_key(ec.SECP384R1())), id="another curve"),
        pytest.param(_pem(ed25519.Ed25519PrivateKey.generate()), id="another algorithm"),
    ],
)
def test_damaged_key_is_reported_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY_FILE).write_bytes(content)
    with pytest.raises(StateError, match=r"Restore it from a copy; or move it away"):
        load_or_create(tmp_path)
    assert (tmp_path / KEY_FILE).read_bytes() == content


def test_encrypted_key_is_damaged_too(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    secret = serialization.BestAvailableEncryption(b"secret")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    (tmp_path / KEY_FILE).write_bytes(pem)
    with pytest.raises(StateError, match="unencrypted"):
        load_or_create(tmp_path)


def test_directory_that_is_a_file_is_the_operators_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="--state-dir"):
        load_or_create(tmp_path / "file")
