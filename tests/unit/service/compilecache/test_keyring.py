from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.compilecache.bundles.signing import SigningKey
from modelcache.errors import UsageError
from modelcache.service.compilecache.keyring import Keyring


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def later(self) -> None:
        self.now += 31.0


def test_trusted_are_those_of_the_directory_and_its_own(tmp_path: Path) -> None:
    ours, other = SigningKey.generate(), SigningKey.generate()
    folder = tmp_path / "trusted"
    folder.mkdir()
    (folder / "other.pub").write_bytes(other.public.to_pem())
    (tmp_path / "signing.pem").write_bytes(ours.to_pem())
    keyring = Keyring(folder, tmp_path / "signing.pem")
    assert {*keyring.trusted()} == {ours.key_id, other.key_id}
    signing = keyring.signing_key()
    assert signing is not None
    assert signing.key_id == ours.key_id


def test_without_files_nobody_is_trusted_and_nothing_signed() -> None:
    keyring = Keyring(None, None)
    assert not keyring.trusted()
    assert keyring.signing_key() is None


def test_keys_are_replaced_while_it_runs_and_nonsense_leaves_what_was(tmp_path: Path) -> None:
    first, second = SigningKey.generate(), SigningKey.generate()
    path, clock = tmp_path / "trusted.pem", Clock()
    path.write_bytes(first.public.to_pem())
    keyring = Keyring(path, None, clock)
    path.write_text("nonsense")
    clock.later()
    assert [*keyring.trusted()] == [first.key_id]
    path.write_bytes(second.public.to_pem())
    assert [*keyring.trusted()] == [first.key_id], "not read with every question"
    clock.later()
    assert [*keyring.trusted()] == [second.key_id]


def test_a_secret_that_comes_later(tmp_path: Path) -> None:
    key, clock = SigningKey.generate(), Clock()
    folder = tmp_path / "signing-key"
    folder.mkdir()
    keyring = Keyring(None, folder / "signing.pem", clock)
    assert keyring.signing_key() is None
    (folder / "signing.pem").write_bytes(key.to_pem())
    clock.later()
    assert keyring.signing_key() is not None
    (folder / "signing.pem").unlink()
    clock.later()
    assert keyring.signing_key() is None
    assert not keyring.trusted()


def test_a_mistyped_path_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no-such"):
        Keyring(None, tmp_path / "no-such" / "signing.pem")
    with pytest.raises(UsageError, match="no-such"):
        Keyring(tmp_path / "no-such", None)
