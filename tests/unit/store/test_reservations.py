"""Space is promised once, whoever asks for it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelcache.errors import InsufficientDisk
from modelcache.store import KeepFree, Store
from modelcache.store.reservations import Reservation

BLOCK = 4096
FREE = 1000 * BLOCK


@pytest.fixture(autouse=True)
def _disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of twice `FREE`, half of it taken, with 100 inodes left."""
    size = 2 * FREE // BLOCK
    found = os.statvfs_result((BLOCK, BLOCK, size, size // 2, size // 2, 1000, 100, 100, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: found)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


DYING = """
import sys, time
from pathlib import Path
from modelcache.store import Store
with Store(Path(sys.argv[1])).space.reserve(1_000_000, files=0, what="m"):
    print("reserved", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_process(store: Store) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has a megabyte promised."""
    with subprocess.Popen(
        [sys.executable, "-c", DYING, str(store.layout.root)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reserved\n"
        yield process
        process.kill()


def test_what_fits_is_promised_and_given_back(store: Store) -> None:
    with store.space.reserve(FREE // 2, files=0, what="m"):
        assert store.space.measure().reserved == FREE // 2
        assert store.space.measure().available == FREE // 2
    assert store.space.measure().available == FREE
    assert os.listdir(store.layout.reservations) == []


def test_what_does_not_fit_is_refused(store: Store) -> None:
    with (
        pytest.raises(InsufficientDisk, match="m needs") as caught,
        store.space.reserve(FREE + 1, files=0, what="m"),
    ):
        pass
    assert (caught.value.needed, caught.value.available) == (FREE + 1, FREE)
    assert os.listdir(store.layout.reservations) == []


def test_two_stores_on_one_root_count_each_other(store: Store) -> None:
    other = Store(store.layout.root)
    with (
        store.space.reserve(FREE // 2 + 1, files=0, what="m"),
        pytest.raises(InsufficientDisk, match="promised to other fetches"),
        other.space.reserve(FREE // 2, files=0, what="n"),
    ):
        pass


def test_another_process_counts_until_it_is_killed(
    store: Store, other_process: subprocess.Popen[bytes]
) -> None:
    assert store.space.measure().reserved == 1_000_000
    other_process.kill()
    other_process.wait()
    assert store.space.measure().reserved == 0
    assert os.listdir(store.layout.reservations) == []


def test_what_is_consumed_is_not_counted_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelcache.store.reservations._REWRITE_BYTES", 1)
    with store.space.reserve(FREE // 2, files=0, what="m") as reservation:
        reservation.consume(FREE // 4)
        assert store.space.measure().reserved == FREE // 4
        reservation.consume(FREE)
        assert store.space.measure().reserved == 0


def test_part_of_the_disk_is_kept_free(tmp_path: Path) -> None:
    store = Store(tmp_path, keep_free=KeepFree(ratio=0.25))
    assert store.space.measure().available == FREE // 2
    with (
        pytest.raises(InsufficientDisk, match="kept free"),
        store.space.reserve(FREE // 2 + 1, files=0, what="m"),
    ):
        pass


def test_inodes_count(store: Store) -> None:
    with (
        pytest.raises(InsufficientDisk, match="102 inodes"),
        store.space.reserve(0, files=51, what="m"),
    ):
        pass


def test_a_torn_reservation_counts_for_nothing(store: Store) -> None:
    (store.layout.reservations / "dead.1.json").write_text('{"byt')
    assert store.space.measure().reserved == 0


def test_a_lock_without_a_reservation_is_swept(store: Store) -> None:
    (store.layout.reservations / "dead.1.lock").write_text("")
    store.space.sweep()
    assert os.listdir(store.layout.reservations) == []


def test_no_reader_sees_half_a_reservation(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelcache.store.reservations._REWRITE_BYTES", 1)
    seen: set[bool] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(store.space.measure().reserved >= FREE // 4)

    with store.space.reserve(FREE // 2, files=0, what="m") as reservation:
        thread = threading.Thread(target=read)
        thread.start()
        for _ in range(500):
            reservation.consume(1)
        stop.set()
        thread.join()
    assert seen == {True}


def test_a_disk_too_full_for_a_reservation_is_a_full_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Reservation) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Reservation, "write", full)
    with pytest.raises(InsufficientDisk), store.space.reserve(1, files=0, what="m"):
        pass
    assert os.listdir(store.layout.reservations) == []


def test_a_disk_that_fills_up_does_not_end_a_fetch_whose_bytes_it_has(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Reservation) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("modelcache.store.reservations._REWRITE_BYTES", 1)
    with store.space.reserve(100, files=0, what="m") as reservation:
        monkeypatch.setattr(Reservation, "write", full)
        reservation.consume(50)


def test_without_locks_age_tells_who_lives(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    store = Store(tmp_path)
    (store.layout.reservations / "other.1.json").write_text('{"bytes": 5}')
    with store.space.reserve(100, files=0, what="m"):
        mine = next(p for p in store.layout.reservations.glob("*.json") if "other" not in p.name)
        for path in store.layout.reservations.glob("*.json"):
            os.utime(path, (1, 1))
        assert store.space.measure().reserved == 100
        assert mine.stat().st_mtime > 1
