"""What went bad is kept aside, within bounds, and never passes for what it was."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from modelcache.store import Quarantined, Store, quarantine
from tests.support.store import digest_of, put, put_blob
from tests.unit.store.test_verifying import spoil

CONTENT = b"weights" * 1000


@pytest.fixture
def bad(store: Store) -> Quarantined:
    manifest = put(store, "m", {"w": CONTENT})
    spoil(store.blobs.path(digest_of(CONTENT)))
    store.withdraw(manifest, store.verify(manifest))
    (found,) = store.quarantine.all()
    return found


def test_it_says_what_it_is_of(bad: Quarantined, store: Store) -> None:
    assert bad.data.stat().st_size == len(CONTENT)
    assert bad.data.read_bytes() != CONTENT
    assert (bad.digest, bad.model, bad.what) == (
        digest_of(CONTENT),
        "m",
        "its content has changed",
    )
    assert bad.file is not None
    assert bad.bytes >= len(CONTENT)
    assert abs(time.time() - bad.at) < 60
    assert not store.blobs.path(bad.digest).exists()


def test_it_is_found_by_its_digest_or_its_identity(bad: Quarantined, store: Store) -> None:
    assert bad.file is not None
    size, identity = len(CONTENT), bad.file.identity
    assert store.quarantine.find("x", bad.digest, size) == bad
    assert store.quarantine.find(identity, None, size) == bad
    assert store.quarantine.find("x", None, size) is None
    assert store.quarantine.find(identity, "0" * 64, size) is None
    assert store.quarantine.find(identity, bad.digest, size + 1) is None


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"at": "x"}', b"\xff"])
def test_a_note_that_says_nothing_is_of_no_use(bad: Quarantined, store: Store, note: bytes) -> None:
    (bad.data.parent / "note.json").write_bytes(note)
    (found,) = store.quarantine.all()
    assert (found.digest, found.file) == (bad.digest, None)
    assert store.quarantine.find("x", bad.digest, len(CONTENT)) is None


def test_a_note_of_another_blob_is_of_no_use(bad: Quarantined, store: Store) -> None:
    path = bad.data.parent / "note.json"
    note = json.loads(path.read_text())
    note["file"]["sha256"] = "0" * 64
    path.write_text(json.dumps(note))
    assert store.quarantine.find("x", bad.digest, len(CONTENT)) is None
    assert store.quarantine.find("x", "0" * 64, len(CONTENT)) is None


def test_bad_again_it_is_there_once(bad: Quarantined, store: Store) -> None:
    manifest = put(store, "m", {"w": CONTENT})
    spoil(store.blobs.path(digest_of(CONTENT)), 5)
    store.withdraw(manifest, store.verify(manifest))
    (found,) = store.quarantine.all()
    assert found.at > bad.at
    assert found.data.read_bytes()[5] != CONTENT[5]


@pytest.mark.parametrize("age", [8 * 86_400, -8 * 86_400])
def test_it_goes_after_some_days_by_whatever_clock(
    bad: Quarantined, store: Store, age: float
) -> None:
    store.sweep()
    assert store.quarantine.all() == [bad]
    path = bad.data.parent / "note.json"
    note = json.loads(path.read_text())
    path.write_text(json.dumps({**note, "at": time.time() - age}))
    store.sweep()
    assert store.quarantine.all() == []


def test_what_is_too_much_goes_the_healed_first(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = []
    for name in ("one", "two", "three"):
        content = name.encode() * 10_000
        manifest = put(store, name, {"w": content})
        spoil(store.blobs.path(digest_of(content)))
        store.withdraw(manifest, store.verify(manifest))
        digests.append(digest_of(content))
    put_blob(store, b"two" * 10_000)  # healed
    found = os.statvfs(store.layout.root)
    capacity = found.f_blocks * found.f_frsize
    sizes = {each.digest: each.bytes for each in store.quarantine.all()}

    def kept(digest: str, share: int) -> list[str]:
        monkeypatch.setattr(quarantine, "KEPT_SHARE", share / capacity)
        store.quarantine.sweep(lambda each: each.digest == digest)
        return [each.digest for each in store.quarantine.all()]

    assert kept(digests[1], sum(sizes.values())) == digests
    assert kept(digests[1], sizes[digests[0]] + sizes[digests[2]]) == [digests[0], digests[2]]
    assert kept(digests[1], sizes[digests[2]]) == [digests[2]]
    assert kept(digests[1], 0) == []


def test_it_goes_with_its_model(bad: Quarantined, store: Store) -> None:
    store.evict("other")
    assert store.quarantine.all() == [bad]
    store.evict("m")
    assert store.quarantine.all() == []


@pytest.mark.parametrize("call", ["mkdir", "rename"])
def test_on_a_full_disk_what_is_bad_goes_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    manifest = put(store, "m", {"w": CONTENT})
    spoil(store.blobs.path(digest_of(CONTENT)))
    damages = store.verify(manifest)
    really = getattr(os, call)

    def full(first: Any, *rest: Any, **more: Any) -> Any:
        if "quarantine" in f"{first} {rest}" and "data" not in f"{rest}":
            raise OSError(errno.ENOSPC, "full")
        return really(first, *rest, **more)

    monkeypatch.setattr(os, call, full)
    store.withdraw(manifest, damages)
    monkeypatch.undo()
    assert not store.blobs.path(digest_of(CONTENT)).exists()
    assert store.manifests() == []
    store.sweep(older_than=0)
    assert list(store.layout.scratch.iterdir()) == []


def test_a_blob_that_is_gone_is_kept_from_the_view(store: Store) -> None:
    manifest = put(store, "m", {"w": CONTENT})
    store.blobs.path(digest_of(CONTENT)).unlink()
    store.withdraw(manifest, store.look(manifest))
    (found,) = store.quarantine.all()
    assert found.data.read_bytes() == CONTENT


def test_names_of_others_are_passed_over(bad: Quarantined, store: Store, tmp_path: Path) -> None:
    folder = store.layout.quarantine
    (folder / "notes.txt").write_text("somebody's")
    (folder / "other").mkdir()
    (folder / "other" / "data").write_bytes(b"x")
    (folder / ("1" * 64)).mkdir()
    assert store.quarantine.all() == [bad]
