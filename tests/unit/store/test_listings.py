"""What is remembered of archives that are gone."""

from __future__ import annotations

import os
import time

from modelcache.store import Entry, Store
from tests.support.store import digest_of, put_blob

ARCHIVE = "ab" * 32
DAY = 86_400.0
ENTRIES = (
    Entry("folder", "models"),
    Entry("file", "models/w", 7, digest_of(b"weights"), number=3),
    Entry("file", "models/not-utf8-\udcff", 3),
    Entry("link", "models/l", target="w"),
    Entry("gone", "models/old"),
)


def test_a_listing_is_read_as_it_was_written(store: Store) -> None:
    assert store.listings.read(ARCHIVE, "models") is None
    store.listings.write(ARCHIVE, "models", ENTRIES)
    assert Store(store.layout.root).listings.read(ARCHIVE, "models") == ENTRIES
    # Of another folder of the archive it says nothing.
    assert store.listings.read(ARCHIVE, "") is None


def test_what_can_not_be_read_is_not_there(store: Store) -> None:
    path = store.layout.listings / f"{ARCHIVE}.json"
    store.listings.write(ARCHIVE, "models", ENTRIES)
    whole = path.read_bytes()
    for content in (b"", b"[]", b"{}", whole[:-5], whole.replace(b'"version":2', b'"version":1')):
        path.write_bytes(content)
        assert store.listings.read(ARCHIVE, "models") is None
    store.sweep(older_than=0)


def test_what_is_of_use_stays(store: Store) -> None:
    path = store.layout.listings / f"{ARCHIVE}.json"

    def survives(idle: float) -> bool:
        store.listings.write(ARCHIVE, "models", ENTRIES)
        long_ago = time.time() - idle
        os.utime(path, (long_ago, long_ago))
        store.listings.sweep(store.blobs, 0)
        return path.exists()

    assert survives(80 * DAY)
    assert not survives(100 * DAY)
    put_blob(store, b"weights")
    assert survives(100 * DAY)
    # Being read is being used.
    os.utime(path, (0, 0))
    store.listings.read(ARCHIVE, "models")
    store.blobs.remove_unused([digest_of(b"weights")])
    store.listings.sweep(store.blobs, 0)
    assert path.exists()
