"""Partial files: what of them is taken up again, and what is not."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from modelcache.errors import InsufficientDisk
from modelcache.store import SMALL_BYTES, Busy, Partial, Piece, Store
from modelcache.store.durable import Durable
from modelcache.store.locking import PROCESS_TOKEN
from tests.support.store import digest_of, put_blob

KEY = "sha256-key"


def begin(store: Store, pieces: int = 2) -> Partial:
    partial = store.ingest.claim(KEY, 40)
    partial.allocate()
    for number in range(pieces):
        partial.write(memoryview(b"0123456789"), number * 10)
        partial.record(number * 10, number * 10 + 10, 0xABC)
    return partial


def folder(store: Store) -> Path:
    return store.layout.partials / KEY


def resumed(store: Store) -> list[Piece]:
    partial = store.ingest.claim(KEY, 40)
    partial.close()
    return partial.pieces


def test_what_is_recorded_is_resumed(store: Store) -> None:
    begin(store).close()
    assert resumed(store) == [Piece(0, 10, 0xABC), Piece(10, 20, 0xABC)]


def test_a_written_piece_is_read_back(store: Store) -> None:
    partial = begin(store)
    found = bytearray(5)
    partial.read_into(memoryview(found), 12)
    assert bytes(found) == b"23456"


def test_reading_past_the_end_fails(store: Store) -> None:
    partial = begin(store)
    with pytest.raises(OSError, match="shorter than its journal"):
        partial.read_into(memoryview(bytearray(10)), 39)


def test_it_is_one_holders_at_a_time(store: Store) -> None:
    partial = begin(store)
    with pytest.raises(Busy):
        store.ingest.claim(KEY, 40)
    partial.close()
    assert resumed(store)


def test_claimed_while_its_last_holder_lets_go(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.mkdir, list[Any]()

    def mkdir(path: Path, mode: int = 0o777) -> None:
        calls.append(path)
        if len(calls) == 1:  # it was there, and the next moment it isn't
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        real(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    assert resumed(store) == []
    assert len(calls) == 2


def test_a_torn_line_is_passed_over_and_ended(store: Store) -> None:
    begin(store).close()
    journal = folder(store) / "journal"
    journal.write_bytes(journal.read_bytes() + b"20 30 00000")
    assert len(resumed(store)) == 2
    partial = store.ingest.claim(KEY, 40)
    partial.record(20, 30, 7)
    partial.close()
    assert resumed(store)[-1] == Piece(20, 30, 7)


@pytest.mark.parametrize(
    "line",
    [
        b"30 50 00000abc",  # beyond the file
        b"30 30 00000abc",
        b"30 20 00000abc",
        b"-1 30 00000abc",
        b"2_0 30 00000abc",
        b"20 30 abc",
        b"20 30",
        b"\0\0\0\0",
    ],
)
def test_a_line_that_cannot_be_right_is_passed_over(store: Store, line: bytes) -> None:
    begin(store).close()
    journal = folder(store) / "journal"
    journal.write_bytes(journal.read_bytes() + line + b"\n")
    assert len(resumed(store)) == 2


def test_a_journal_that_claims_more_than_the_data_is_cut(store: Store) -> None:
    begin(store).close()
    os.truncate(folder(store) / "data", 15)
    assert resumed(store) == [Piece(0, 10, 0xABC)]


def test_a_piece_across_two_chunks_of_a_manifest_is_no_piece(store: Store) -> None:
    chunk = 16 * 1024 * 1024
    partial = store.ingest.claim(KEY, 2 * chunk)
    os.ftruncate(partial.fd, 2 * chunk)
    partial.record(chunk - 10, chunk + 10, 1)
    partial.record(chunk, 2 * chunk, 1)
    partial.close()
    again = store.ingest.claim(KEY, 2 * chunk)
    again.close()
    assert again.pieces == [Piece(chunk, 2 * chunk, 1)]


def test_of_two_pieces_that_overlap_one_counts(store: Store) -> None:
    partial = begin(store)
    partial.record(5, 15, 1)
    partial.record(0, 10, 2)
    partial.close()
    assert resumed(store) == [Piece(0, 10, 2), Piece(10, 20, 0xABC)]


def test_another_size_begins_anew(store: Store) -> None:
    begin(store).close()
    partial = store.ingest.claim(KEY, 41)
    assert partial.pieces == []
    assert os.fstat(partial.fd).st_size == 0
    partial.close()


def test_a_discarded_one_leaves_nothing(store: Store) -> None:
    begin(store).discard()
    assert os.listdir(store.layout.partials) == []


@pytest.mark.parametrize("resumable", [True, False])
def test_a_finished_one_leaves_its_blob_and_room_for_the_next(
    store: Store, resumable: bool
) -> None:
    digest = put_blob(store, b"weights", resumable=resumable)
    path = store.blobs.path(digest)
    assert path.read_bytes() == b"weights"
    assert path.stat().st_mode & 0o777 == 0o444
    assert path.stat().st_nlink == 1
    assert os.listdir(store.layout.partials) == os.listdir(store.layout.scratch) == []
    put_blob(store, b"the next")


def test_one_that_is_not_resumable_leaves_nothing_when_let_go(store: Store) -> None:
    store.ingest.claim(KEY, 40, resumable=False).close()
    assert os.listdir(store.layout.partials) == os.listdir(store.layout.scratch) == []


def test_killed_before_it_had_its_name_it_can_be_written_again(store: Store) -> None:
    partial = begin(store)
    partial.close()
    (folder(store) / "data").chmod(0o444)  # as `finish` does first
    assert len(resumed(store)) == 2
    assert (folder(store) / "data").stat().st_mode & 0o600 == 0o600


def test_killed_after_it_had_its_name_the_blob_is_never_written_to(store: Store) -> None:
    begin(store).close()
    blob = store.layout.blobs / "blob"
    os.link(folder(store) / "data", blob)
    before = blob.read_bytes()
    partial = store.ingest.claim(KEY, 41)
    assert partial.pieces == []
    partial.allocate()
    partial.write(memoryview(b"x" * 41), 0)
    partial.close()
    assert blob.read_bytes() == before


def test_after_a_failed_fsync_nothing_is_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(self: Durable, fd: int) -> None:
        raise OSError(errno.EIO, "bad sector")

    partial = begin(store)
    with monkeypatch.context() as patch:
        patch.setattr(Durable, "sync", bad)
        with pytest.raises(OSError, match="bad sector"):
            partial.finish(store.blobs.path("0" * 64))
    assert resumed(store) == []
    assert not store.blobs.path("0" * 64).exists()


def test_a_name_that_is_taken_stays(store: Store) -> None:
    digest = put_blob(store, b"weights")
    before = store.blobs.path(digest).stat().st_ino
    partial = store.ingest.claim(KEY, 7)
    partial.write(memoryview(b"weights"), 0)
    partial.finish(store.blobs.path(digest))
    assert store.blobs.path(digest).stat().st_ino == before


def test_a_name_that_a_torn_file_has_is_taken_over(store: Store) -> None:
    path = store.blobs.path(digest_of(b"weights"))
    path.parent.mkdir()
    path.write_bytes(b"wei")
    put_blob(store, b"weights")
    assert path.read_bytes() == b"weights"


def test_no_room_for_the_whole_file_gives_back_what_was_claimed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, offset: int, size: int) -> None:
        os.ftruncate(fd, size)
        raise OSError(errno.ENOSPC, "full")

    partial = store.ingest.claim(KEY, 1 << 20)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InsufficientDisk) as caught:
        partial.allocate()
    assert caught.value.needed == 1 << 20
    assert os.fstat(partial.fd).st_size == 0
    partial.close()


@pytest.mark.parametrize("resumable", [True, False])
def test_a_large_file_has_its_room_before_its_bytes(store: Store, resumable: bool) -> None:
    partial = store.ingest.claim(KEY, SMALL_BYTES + 1, resumable=resumable)
    assert partial.allocate() >= SMALL_BYTES
    assert os.fstat(partial.fd).st_blocks * 512 >= SMALL_BYTES
    partial.close()


def test_a_full_disk_while_claiming_lets_go_of_the_lock(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(Partial, "_load_journal", full)
        with pytest.raises(InsufficientDisk):
            store.ingest.claim(KEY, 40)
    assert resumed(store) == []


def test_swept_when_old_and_unwanted(store: Store) -> None:
    begin(store).close()
    assert store.ingest.sweep(frozenset(), older_than=3600) == 0
    assert store.ingest.sweep(frozenset({KEY}), older_than=0) == 0
    assert store.ingest.sweep(frozenset(), older_than=0) == 1
    assert os.listdir(store.layout.partials) == []


def test_not_swept_while_somebody_is_at_work(store: Store) -> None:
    partial = begin(store)
    assert store.ingest.sweep(frozenset(), older_than=0) == 0
    partial.close()


def test_swept_beside_one_that_finishes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(store).close()
    real = Path.iterdir

    def iterdir(path: Path) -> Any:
        yield from real(path)
        if path == folder(store):
            yield path / "gone"

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert store.ingest.sweep(frozenset(), older_than=0) == 0


def test_without_locks_each_process_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    store = Store(tmp_path)
    partial = store.ingest.claim(KEY, 40)
    assert partial.folder.name == f"{KEY}.{PROCESS_TOKEN}"
    with pytest.raises(Busy):
        store.ingest.claim(KEY, 40)  # two threads still never write one file
    partial.close()
    assert store.ingest.sweep(frozenset({KEY}), older_than=0) == 0
