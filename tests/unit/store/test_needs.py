"""Archives that fetches need still."""

from __future__ import annotations

import os
import time

from modelcache.store import Store
from tests.support.store import COMMIT, OTHER_COMMIT, digest_of, put_blob

ONE, TWO = digest_of(b"one"), digest_of(b"two")


def test_what_others_need(store: Store) -> None:
    store.needs.note("m", COMMIT, [ONE])
    store.needs.note("m", f"{COMMIT}-12345678", [ONE, TWO])
    assert Store(store.layout.root).needs.of_others("m", COMMIT) == {ONE, TWO}
    assert store.needs.of_others("m", f"{COMMIT}-12345678") == {ONE}
    store.needs.note("m", f"{COMMIT}-12345678", [TWO])
    assert store.needs.of_others("m", COMMIT) == {TWO}
    store.needs.drop("m", f"{COMMIT}-12345678")
    store.needs.drop("m", OTHER_COMMIT)
    assert store.needs.of_all() == {ONE}


def test_what_can_not_be_read_is_no_need(store: Store) -> None:
    (store.layout.needs / f"m.{COMMIT}").write_bytes(b"\xff\x00" + ONE.encode() + b"\nabc")
    assert store.needs.of_all() == {ONE}


def test_an_evicted_model_needs_nothing(store: Store) -> None:
    """What only it needed goes with it, and not what another one does."""
    for content in (b"one", b"two"):
        put_blob(store, content)
    store.needs.note("m", COMMIT, [ONE, TWO])
    store.needs.note("m-2", COMMIT, [TWO])
    store.evict("m")
    assert store.needs.of_all() == {TWO}
    assert not store.blobs.has(ONE, 3)
    assert store.blobs.has(TWO, 3)


def test_a_blob_that_is_needed_is_not_swept(store: Store) -> None:
    put_blob(store, b"one")
    store.needs.note("m", COMMIT, [ONE])
    soon = time.time() + 3600
    os.utime(store.layout.needs / f"m.{COMMIT}", (soon, soon))
    store.sweep(older_than=0)
    assert store.blobs.has(ONE, 3)


def test_what_nobody_comes_back_for_is_swept(store: Store) -> None:
    put_blob(store, b"one")
    store.needs.note("m", COMMIT, [ONE])
    path = store.layout.needs / f"m.{COMMIT}"
    os.utime(path, (0, 0))
    store.needs.touch("m", COMMIT)
    store.needs.touch("m", OTHER_COMMIT)
    store.sweep(older_than=3600)
    assert path.exists()
    os.utime(path, (0, 0))
    store.sweep(older_than=3600)
    assert not path.exists()
    store.sweep(older_than=0)
    assert not store.blobs.has(ONE, 3)
