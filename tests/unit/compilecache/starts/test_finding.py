"""Which of the bundles that are held a start is seeded from, and why not from the others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.signing import SigningKey, TrustedKeys
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.keys.parts import Key
from modelcache.compilecache.starts.finding import find
from modelcache.compilecache.starts.holding import Held, Holding
from modelcache.compilecache.starts.marks import WITHDRAWN_AFTER, Marks
from modelcache.compilecache.starts.ownkey import own_key, own_key_path
from modelcache.errors import UsageError
from modelcache.store import Store
from modelcache.store.durable import Durable
from tests.support.bundles import a_bundle, a_key

MINE = SigningKey.generate()
TRUST = Trust(TrustedKeys(MINE.public))
KEY = a_key()

Hold = Callable[..., Held]


@pytest.fixture
def hold(holding: Holding, tmp_path: Path) -> Hold:
    """Holds a bundle of a content; the later one is the newer."""
    number = iter(range(1, 100))

    def hold(content: bytes, key: Key = KEY, by: SigningKey | None = MINE) -> Held:
        n = next(number)
        bundle = a_bundle(tmp_path / f"bundle{n}", content, key=key, signed_by=by)
        held = put(holding, bundle, bundle.statement.key.digest, bundle.digest)
        os.utime(held.directory / "bundle.json", ns=(0, n))
        return held

    return hold


def put(holding: Holding, bundle: LocalBundle, key: str, digest: str) -> Held:
    with holding.staging() as made:
        for path in bundle.directory.iterdir():
            shutil.copyfile(path, made / path.name)
        return holding.add(made, "tiny", key, digest)


def test_the_newest_of_the_key_is_taken(holding: Holding, marks: Marks, hold: Hold) -> None:
    hold(b"old")
    newest = hold(b"new")
    hold(b"other", a_key("org/other"))
    found = find(holding, marks, TRUST, "tiny", KEY.digest)
    assert found.bundle is not None
    assert found.bundle.directory == newest.directory
    assert found.passed == ()


@pytest.mark.parametrize("by", [None, SigningKey.generate()])
def test_what_nobody_trusted_vouches_for_is_passed_over(
    holding: Holding, marks: Marks, hold: Hold, by: SigningKey | None
) -> None:
    good = hold(b"good")
    bad = hold(b"bad", by=by)
    found = find(holding, marks, TRUST, "tiny", KEY.digest)
    assert found.bundle is not None
    assert found.bundle.directory == good.directory
    assert [passed.digest for passed in found.passed] == [f"sha256:{bad.digest}"]
    assert "signed" in found.passed[0].why
    pinned = Trust(digests={f"sha256:{bad.digest}"})
    assert find(holding, marks, pinned, "tiny", KEY.digest).bundle is not None


def test_of_other_keys_nothing_is_taken(holding: Holding, marks: Marks, hold: Hold) -> None:
    hold(b"other", a_key("org/other"))
    found = find(holding, marks, TRUST, "tiny", KEY.digest)
    assert (found.bundle, found.passed) == (None, ())
    assert find(holding, marks, TRUST, "elsewhere", KEY.digest).bundle is None


def test_what_starts_could_not_load_is_passed_over(
    holding: Holding, marks: Marks, hold: Hold
) -> None:
    held = hold(b"a")
    for _ in range(WITHDRAWN_AFTER):
        assert find(holding, marks, TRUST, "tiny", KEY.digest).bundle is not None
        marks.failed("tiny", held.digest, "it is for another torch")
    found = find(holding, marks, TRUST, "tiny", KEY.digest)
    assert found.bundle is None
    assert found.passed[0].why.endswith("it is for another torch")


def test_a_signed_bundle_under_another_keys_name_is_not_taken(
    holding: Holding, marks: Marks, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "bundle", key=a_key("org/other"), signed_by=MINE)
    put(holding, bundle, KEY.digest, bundle.digest)
    found = find(holding, marks, TRUST, "tiny", KEY.digest)
    assert found.bundle is None
    assert "lies at a wrong place" in found.passed[0].why


def test_half_a_bundle_is_passed_over(holding: Holding, marks: Marks, hold: Hold) -> None:
    held = hold(b"a")
    held.archive.chmod(0o644)
    held.archive.write_bytes(b"short")
    found = find(holding, marks, TRUST, "tiny", KEY.digest)
    assert found.bundle is None
    assert "has 5 bytes" in found.passed[0].why


def test_a_machines_own_key_stays_the_same_and_is_its_own(store: Store, durable: Durable) -> None:
    key = own_key(store.layout, durable)
    path = own_key_path(store.layout)
    assert path.stat().st_mode & 0o777 == 0o600
    assert own_key(store.layout, durable).key_id == key.key_id
    assert TrustedKeys.load(path.with_suffix(".pub"))[key.key_id].key_id == key.key_id


def test_a_key_that_others_can_read_is_not_used(store: Store, durable: Durable) -> None:
    own_key(store.layout, durable)
    own_key_path(store.layout).chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        own_key(store.layout, durable)
