"""Damage is found where it is, withdrawn, and healed by what is fetched again."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from modelcache.errors import InsufficientDisk
from modelcache.store import Store, verifying
from modelcache.store.receipts import Receipts
from tests.support.store import (
    COMMIT,
    OTHER_COMMIT,
    REPOSITORY,
    check,
    digest_of,
    put,
    put_blob,
)

CHUNK = 16 * 1024 * 1024


def spoil(path: Path, position: int = 0) -> None:
    """Flip a bit, as a disk does: behind the store's back."""
    mode = path.stat().st_mode
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))
    path.chmod(mode)


def test_a_whole_snapshot_has_no_damage(store: Store) -> None:
    manifest = put(store, "m", {"w": b"weights", "again": b"weights"}, repository=REPOSITORY)
    seen: list[int] = []
    assert store.verify(manifest, seen.append) == []
    assert sum(seen) == 7  # what two files share is read once


def test_a_flipped_bit_is_found_with_its_range(store: Store) -> None:
    content = bytes(CHUNK) + bytes(CHUNK) + b"tail"
    manifest = put(store, "m", {"w": content})
    spoil(store.blobs.path(digest_of(content)), CHUNK + 5)
    assert store.look(manifest) == []
    (damage,) = store.verify(manifest)
    assert damage.blob
    assert damage.ranges == ((CHUNK, 2 * CHUNK),)
    spoil(store.blobs.path(digest_of(content)), 2 * CHUNK + 1)
    (damage,) = store.verify(manifest)
    assert damage.ranges == ((CHUNK, 2 * CHUNK), (2 * CHUNK, 2 * CHUNK + 4))


def test_every_file_of_a_bad_blob_is_named(store: Store) -> None:
    manifest = put(store, "m", {"one": b"weights", "two": b"weights"})
    spoil(store.blobs.path(digest_of(b"weights")))
    assert sorted(damage.path for damage in store.verify(manifest)) == ["one", "two"]


def test_a_copy_in_a_view_is_read_too(store: Store) -> None:
    manifest = put(store, "m", {"w": b"weights"})
    view = store.layout.view("m", COMMIT)
    (view / "w").unlink()
    (view / "w").write_bytes(b"WEIGHTS")
    (damage,) = store.verify(manifest)
    assert (damage.path, damage.blob) == ("w", False)


def test_a_look_sees_what_is_missing_or_short(store: Store) -> None:
    manifest = put(store, "m", {"a": b"a", "b": b"b", "c": b"c", "d": b"d"})
    view = store.layout.view("m", COMMIT)
    (view / "a").unlink()
    (view / "b").unlink()
    (view / "b").symlink_to("c")
    store.blobs.set_aside(digest_of(b"c"))
    blob = store.blobs.path(digest_of(b"d"))
    blob.chmod(0o600)
    os.truncate(blob, 0)
    found = {damage.path: damage.blob for damage in store.look(manifest)}
    assert found == {"a": False, "b": False, "c": True, "d": True}


def test_a_view_that_is_gone_is_damage(store: Store) -> None:
    manifest = put(store, "m", {"a/w": b"weights"})
    store._durable.remove_tree(store.layout.view("m", COMMIT))
    assert [damage.blob for damage in store.verify(manifest)] == [False]


@pytest.mark.parametrize(("number", "damages"), [(errno.EIO, 1), (errno.EMFILE, None)])
def test_only_what_the_disk_lost_is_damage(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int, damages: int | None
) -> None:
    manifest = put(store, "m", {"w": b"weights"})

    def fail(*given: Any) -> int:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "preadv", fail)
    if damages is None:
        with pytest.raises(OSError, match="no"):
            store.verify(manifest)
    else:
        assert len(store.verify(manifest)) == damages


def test_verifying_can_be_stopped(store: Store) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    manifest = put(store, "m", {"w": b"weights"})
    with pytest.raises(KeyboardInterrupt):
        store.verify(manifest, stop=stop)


def test_what_is_withdrawn_is_not_shown_and_its_good_files_stay(store: Store) -> None:
    manifest = put(store, "m", {"good": b"good", "bad": b"bad"}, repository=REPOSITORY)
    spoil(store.blobs.path(digest_of(b"bad")))
    store.withdraw(manifest, store.verify(manifest))
    assert store.manifests() == []
    assert not store.layout.current("m").is_symlink()
    assert not (store.layout.hub("m") / "models--org--tiny" / "refs" / "main").exists()
    good = manifest.files[1]
    assert store.find(good.identity, None, 4, fresh=True) == good
    assert store.find("x", digest_of(b"bad"), 3, fresh=True) is None


def test_it_heals(store: Store) -> None:
    files = {"good": b"good", "bad": b"bad"}
    manifest = put(store, "m", files, repository=REPOSITORY)
    spoil(store.blobs.path(digest_of(b"bad")))
    store.withdraw(manifest, store.verify(manifest))
    put(store, "m", files, repository=REPOSITORY)
    check(store)
    assert (store.layout.current("m") / "bad").read_bytes() == b"bad"
    assert store.layout.receipts.exists()
    assert list(store.layout.receipts.iterdir()) == []


def test_every_model_that_shares_a_bad_blob_is_withdrawn(store: Store) -> None:
    one = put(store, "one", {"w": b"weights"})
    put(store, "two", {"v": b"weights"})
    three = put(store, "three", {"w": b"other"})
    spoil(store.blobs.path(digest_of(b"weights")))
    store.withdraw(one, store.verify(one))
    assert store.manifests() == [three]


def test_damage_of_a_view_withdraws_that_one_alone(store: Store) -> None:
    one = put(store, "one", {"w": b"weights"})
    two = put(store, "two", {"v": b"weights"})
    (store.layout.view("one", COMMIT) / "w").unlink()
    store.withdraw(one, store.look(one))
    assert store.manifests() == [two]
    assert store.blobs.has(digest_of(b"weights"), 7)


def test_nothing_that_shares_the_damage_takes_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "m", {"w": b"weights"})
    new = put(store, "m", {"w": b"weights", "x": b"x"}, commit=OTHER_COMMIT)
    spoil(store.blobs.path(digest_of(b"weights")))
    shown: list[str] = []
    monkeypatch.setattr(store._showing, "show", lambda manifest: shown.append(manifest.snapshot))
    store.withdraw(new, store.verify(new))
    assert shown == []


def test_killed_while_withdrawing_a_look_still_tells(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    manifest = put(store, "m", {"w": b"weights"})
    spoil(store.blobs.path(digest_of(b"weights")))
    damages = store.verify(manifest)
    monkeypatch.setattr(store._showing, "unshow", killed)
    with pytest.raises(KeyboardInterrupt):
        store.withdraw(manifest, damages)
    again = Store(store.layout.root)
    assert again.look(manifest) != []
    assert again.find(manifest.files[0].identity, None, 7) is None


def test_a_full_disk_does_not_keep_damage_shown(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise InsufficientDisk("full")

    put(store, "m", {"w": b"old"})
    manifest = put(store, "m", {"good": b"good", "bad": b"bad"}, commit=OTHER_COMMIT)
    store.blobs.set_aside(digest_of(b"bad"))
    monkeypatch.setattr(Receipts, "append", full)
    monkeypatch.setattr(store._showing, "show", full)
    store.withdraw(manifest, store.look(manifest))
    assert OTHER_COMMIT not in [m.snapshot for m in store.manifests()]
    assert store.current("m") is None


def test_a_blob_fetched_again_is_another_file(store: Store) -> None:
    """What is healed is never written in place: a pod may have the old one mapped."""
    digest = put_blob(store, b"weights")
    before = store.blobs.path(digest).stat().st_ino
    (store.layout.scratch / "held").hardlink_to(store.blobs.path(digest))
    store.blobs.set_aside(digest)
    put_blob(store, b"weights")
    assert store.blobs.path(digest).stat().st_ino != before


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Chunks that the disk can't give."""
    bad: list[int] = []
    really = os.preadv

    def read(fd: int, buffers: Any, offset: int, *rest: Any) -> int:
        if offset // CHUNK in bad:
            raise OSError(errno.EIO, "Input/output error")
        return really(fd, buffers, offset, *rest)

    monkeypatch.setattr(os, "preadv", read)
    return bad


def test_beside_a_chunk_that_can_t_be_read_the_others_are_looked_at(
    store: Store, unreadable: list[int]
) -> None:
    content = bytes(4 * CHUNK) + b"tail"
    manifest = put(store, "m", {"w": content})
    spoil(store.blobs.path(digest_of(content)), 3 * CHUNK)
    unreadable.append(1)
    (damage,) = store.verify(manifest)
    assert damage.unreadable
    assert damage.what == "can't be read: Input/output error"
    assert damage.ranges == ((CHUNK, 2 * CHUNK), (3 * CHUNK, 4 * CHUNK))


def test_a_file_of_which_much_can_t_be_read_is_given_up(
    store: Store, unreadable: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "_MOST_UNREADABLE", 2)
    content = bytes(4 * CHUNK)
    manifest = put(store, "m", {"w": content})
    unreadable += [0, 1]
    seen: list[int] = []
    (damage,) = store.verify(manifest, seen.append)
    assert damage.ranges == tuple((n * CHUNK, (n + 1) * CHUNK) for n in range(4))
    assert seen == []


def test_a_reading_that_was_left_goes_on_and_begins_anew_with_another_file(tmp_path: Path) -> None:
    content = os.urandom(3 * 1024 * 1024)
    path = tmp_path / "w"
    path.write_bytes(content)
    reading = verifying.Reading(path, digest_of(content), len(content), ())
    seen: list[int] = []

    def stop() -> None:
        if len(seen) == 2:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        reading.go_on(seen.append, stop)
    reading.go_on(seen.append)
    assert sum(seen) == len(content)
    assert reading.damage("w") is None
    other = content[:-1] + b"x"
    path.write_bytes(other)
    os.utime(path, ns=(1, 1))
    reading.go_on(seen.append)
    assert sum(seen) == 2 * len(content)
    assert reading.digest == digest_of(other)
    assert reading.damage("w") is not None
