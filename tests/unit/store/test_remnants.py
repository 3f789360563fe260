"""What takes room and is no model: found, counted, and removed without a trace of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelcache.store import Kind, Remnant, Store, blob_key
from modelcache.store.usage import measure_usage
from tests.support.store import COMMIT, OTHER_COMMIT, check, described, digest_of, put, put_blob
from tests.unit.store.test_verifying import spoil

KIB = 1 << 10
CONTENT = b"weights!" * 8 * KIB
OTHER = b"another!" * 4 * KIB


def only(store: Store) -> Remnant:
    (found,) = store.remnants.all()
    return found


def partial(store: Store, key: str, *owners: str, size: int = 64 * KIB) -> None:
    for owner in owners or ("",):
        claimed = store.ingest.claim(key, size, owner=owner)
        claimed.write(memoryview(b"x" * size), 0)
        claimed.record(0, size, 0)
        claimed.close()


def taken(store: Store) -> int:
    return measure_usage(store.layout.root).bytes


def test_an_empty_cache_has_none_and_a_model_is_none(store: Store) -> None:
    assert store.remnants.all() == []
    put(store, "m", {"w": CONTENT}, repository="org/m")
    assert store.remnants.all() == []


def test_a_partial_file_says_for_whom_it_is(store: Store) -> None:
    key = blob_key("hub:x", None)
    partial(store, key, "m", "o", "m")
    found = only(store)
    assert (found.kind, found.name, found.key) == (Kind.PARTIAL, f"partial/{key}", key)
    assert found.models == {"m", "o"}
    assert found.bytes >= 64 * KIB
    before = taken(store)
    assert store.remnants.remove("m", found.name) == found.bytes
    assert before - taken(store) >= found.bytes
    assert store.remnants.all() == []
    assert list(store.layout.partials.iterdir()) == []


@pytest.mark.parametrize("note", [b"", b"../m\n", b"\xff\xfe\n", b"M\n\n", b"x" * 1_000_000])
def test_what_no_model_can_be_called_is_no_owner(store: Store, note: bytes) -> None:
    partial(store, "sha256-k")
    (store.layout.partials / "sha256-k" / "lock").write_bytes(note)
    assert only(store).models == frozenset()


def test_a_partial_file_at_work_stays(store: Store) -> None:
    claimed = store.ingest.claim("sha256-k", 4 * KIB, owner="m")
    claimed.write(memoryview(b"x" * 4 * KIB), 0)
    assert store.remnants.remove("m", only(store).name) == 0
    claimed.close()
    assert store.remnants.remove("m", only(store).name) > 0


def test_names_lead_nowhere_else(store: Store) -> None:
    put(store, "m", {"w": CONTENT})
    for name in ("partial/../../models", "quarantine/..", "..", f"../m/{COMMIT}", COMMIT):
        assert store.remnants.remove("m", name) == 0
    check(store)
    assert store.current("m") is not None


def test_files_of_a_fetch_that_did_not_end(store: Store) -> None:
    for content in (CONTENT, OTHER):
        put_blob(store, content)
        store.record("m", COMMIT, described("w", content))
    found = only(store)
    assert (found.kind, found.name) == (Kind.UNFINISHED, COMMIT)
    assert found.models == {"m"}
    assert found.content == {digest_of(c): -(-len(c) // 4096) * 4096 for c in (CONTENT, OTHER)}
    assert store.remnants.remove("m", COMMIT) == found.bytes
    assert store.remnants.all() == []
    assert list(store.blobs.all()) == []
    assert store.noted("m", COMMIT) == []


def test_what_others_have_too_stays(store: Store) -> None:
    put(store, "whole", {"w": CONTENT})
    for content in (CONTENT, OTHER):
        put_blob(store, content)
        store.record("m", COMMIT, described("w", content))
    store.record("n", OTHER_COMMIT, described("w", OTHER))
    first = next(each for each in store.remnants.all() if each.models == {"m"})
    assert set(first.content) == {digest_of(OTHER)}
    assert store.remnants.remove("m", COMMIT) == 0, "another fetch has it as well"
    assert store.remnants.remove("n", OTHER_COMMIT) > 0
    check(store)
    assert store.current("whole") is not None


def test_archives_that_fetches_needed(store: Store) -> None:
    store.needs.note("m", COMMIT, [put_blob(store, CONTENT)])
    store.needs.note("n", COMMIT, [put_blob(store, CONTENT), put_blob(store, OTHER)])
    assert store.remnants.remove("n", COMMIT) == len(OTHER)
    assert store.blobs.has(digest_of(CONTENT), len(CONTENT))
    assert store.remnants.remove("m", COMMIT) == len(CONTENT)
    assert store.remnants.all() == []


def withdrawn(store: Store) -> Path:
    """A model of two files, of which the first went bad; its view."""
    manifest = put(store, "m", {"bad": CONTENT, "good": OTHER}, repository="org/m")
    spoil(store.blobs.path(digest_of(CONTENT)))
    store.withdraw(manifest, store.verify(manifest))
    return store.layout.view("m", COMMIT)


def test_a_withdrawn_view_keeps_what_is_good_and_nothing_that_is_bad(store: Store) -> None:
    view = withdrawn(store)
    assert {path.name for path in view.iterdir()} == {"good"}
    by_kind = {each.kind: each for each in store.remnants.all()}
    assert by_kind[Kind.UNFINISHED].content == {digest_of(OTHER): len(OTHER)}
    quarantined = by_kind[Kind.QUARANTINED]
    assert quarantined.bytes == len(CONTENT)
    assert not quarantined.healed
    before = taken(store)
    assert store.remnants.remove("m", quarantined.name) == len(CONTENT)
    assert before - taken(store) >= len(CONTENT)
    assert store.remnants.remove("m", COMMIT) == len(OTHER)
    assert not store.layout.model("m").exists()
    assert not store.layout.hub("m").exists()
    assert store.remnants.all() == []


def test_who_has_a_bad_file_open_reads_on(store: Store) -> None:
    manifest = put(store, "m", {"w": CONTENT})
    with (store.layout.view("m", COMMIT) / "w").open("rb") as file:
        spoil(store.blobs.path(digest_of(CONTENT)))
        store.withdraw(manifest, store.verify(manifest))
        assert os.fstat(file.fileno()).st_nlink == 1, "in quarantine alone"
        assert len(file.read()) == len(CONTENT)


def test_what_is_bad_goes_out_of_every_view_that_has_it(store: Store) -> None:
    manifest = put(store, "m", {"w": CONTENT})
    put(store, "n", {"a/b": CONTENT, "c": OTHER}, commit=OTHER_COMMIT, repository="org/n")
    spoil(store.blobs.path(digest_of(CONTENT)))
    store.withdraw(manifest, store.verify(manifest))
    names = [path for path in store.layout.root.rglob("*") if path.is_file()]
    inodes = [path for path in names if path.samefile(store.quarantine.all()[0].data)]
    assert inodes == [store.quarantine.all()[0].data]
    assert (store.layout.view("n", OTHER_COMMIT) / "c").exists()


def test_healing_puts_it_back_in_its_place(store: Store) -> None:
    view = withdrawn(store)
    inode = view.stat().st_ino
    manifest = put(store, "m", {"bad": CONTENT, "good": OTHER}, repository="org/m")
    assert view.stat().st_ino == inode, "a pod may have it mounted"
    assert (view / "bad").read_bytes() == CONTENT
    assert store.verify(manifest) == []
    (found,) = store.remnants.all()
    assert found.healed


def test_what_a_view_alone_has_of_a_lost_blob_goes_out_of_it_too(store: Store) -> None:
    """It may be good, and it may not: it is kept aside, to be healed from."""
    manifest = put(store, "m", {"w": CONTENT}, repository="org/m")
    store.blobs.path(digest_of(CONTENT)).unlink()
    store.withdraw(manifest, store.look(manifest))
    found = next(each for each in store.remnants.all() if each.kind is Kind.QUARANTINED)
    assert found.bytes == len(CONTENT)
    assert not (store.layout.view("m", COMMIT) / "w").exists()


def test_what_is_committed_meanwhile_stays(store: Store) -> None:
    put(store, "m", {"w": CONTENT})
    assert store.remnants.remove("m", COMMIT) == 0
    check(store)


def test_a_fetch_under_way_keeps_its_files(store: Store) -> None:
    put_blob(store, CONTENT)
    store.record("m", COMMIT, described("w", CONTENT))
    with store.space.reserve(1, files=1, what="m"):
        assert store.remnants.remove("m", COMMIT) == 0
    assert store.remnants.remove("m", COMMIT) > 0


def test_what_is_not_ours_is_none(store: Store) -> None:
    for folder in (store.layout.root / "models" / "m" / "mine", store.layout.model("Not-A-Name")):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(CONTENT)
    (store.layout.receipts / "x.jsonl").write_bytes(b"{}\n")
    assert store.remnants.all() == []
