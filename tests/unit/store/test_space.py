"""How much a root takes, and how much it may."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modelcache.errors import InsufficientDisk
from modelcache.store import Capacity, KeepFree, Store
from modelcache.store.usage import measure_usage
from tests.support.store import put

MIB = 1 << 20


def du(root: Path) -> int:
    """What `du` says, which counts each inode once as well."""
    told = subprocess.run(["du", "-s", "-B1", str(root)], capture_output=True, check=True)
    return int(told.stdout.split()[0])


def inodes(root: Path) -> int:
    told = subprocess.run(["du", "-s", "--inodes", str(root)], capture_output=True, check=True)
    return int(told.stdout.split()[0])


@pytest.fixture
def limited(tmp_path: Path) -> Callable[..., Store]:
    def make(size: int, **more: object) -> Store:
        return Store(tmp_path / "root", capacity=Capacity(bytes=size), **more)  # type: ignore[arg-type]

    return make


def test_a_root_takes_what_du_says(tmp_path: Path) -> None:
    store = Store(tmp_path / "root")
    put(store, "m", {"a": b"x" * 100_000, "b/c": b"y" * 5000, "b/d": b"y" * 5000})
    put(store, "n", {"a": b"x" * 100_000}, repository="org/n")
    (store.layout.root / "of-somebody-else").write_bytes(bytes(70_000))
    with (store.layout.root / "with-a-hole").open("wb") as file:
        file.truncate(10 * MIB)
    usage = measure_usage(store.layout.root)
    assert usage.bytes == du(store.layout.root)
    assert usage.inodes == inodes(store.layout.root)


def test_links_lead_nowhere_out_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "root")
    before = measure_usage(store.layout.root)
    (tmp_path / "large").write_bytes(bytes(MIB))
    (store.layout.root / "link").symlink_to(tmp_path)
    after = measure_usage(store.layout.root)
    assert after.bytes - before.bytes <= 8192
    assert after.inodes == before.inodes + 1


def test_what_is_measured_adds_up(tmp_path: Path) -> None:
    store = Store(tmp_path / "root", keep_free=KeepFree(ratio=0.1))
    put(store, "m", {"a": b"x" * MIB})
    space = store.space.measure()
    assert space.used == measure_usage(store.layout.root).bytes
    found = os.statvfs(tmp_path)
    assert space.capacity == found.f_blocks * found.f_frsize
    assert space.kept_free == int(space.capacity * 0.1)
    assert space.others >= 0
    free = space.budget - space.used
    assert space.available == max(0, free)


def test_the_capacity_is_all_that_is_given(limited: Callable[..., Store]) -> None:
    store = limited(10 * MIB)
    put(store, "m", {"a": b"x" * 4 * MIB})
    with store.space.reserve(5 * MIB, files=1, what="n"):
        assert store.space.measure().available < MIB
    with (
        pytest.raises(InsufficientDisk, match=r"has 4\.\d MiB of the 10\.0 MiB that it may take"),
        store.space.reserve(6 * MIB, files=1, what="n"),
    ):
        pass
    store.evict("m")
    with store.space.reserve(9 * MIB, files=1, what="n"):
        pass


def test_a_cache_above_its_capacity_gives_nothing(limited: Callable[..., Store]) -> None:
    store = limited(10 * MIB)
    put(store, "m", {"a": b"x" * 4 * MIB})
    smaller = limited(MIB)
    space = smaller.space.measure()
    assert (space.available, space.budget) == (0, MIB)
    assert space.used > 4 * MIB


def test_what_others_leave_counts_where_it_is_less(limited: Callable[..., Store]) -> None:
    store = limited(10 * MIB, keep_free=KeepFree(ratio=1.0))
    assert store.space.measure().available == 0
    assert store.space.measure().budget == 0


def test_all_processes_count_toward_the_capacity(limited: Callable[..., Store]) -> None:
    store = limited(10 * MIB)
    dying = (
        "import sys, time; from pathlib import Path; from modelcache.store import Store\n"
        "with Store(Path(sys.argv[1])).space.reserve(6 << 20, files=0, what='m'):\n"
        "    print('reserved', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", dying, str(store.layout.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reserved\n"
        with (
            pytest.raises(InsufficientDisk, match=r"6\.0 MiB are promised to other fetches"),
            store.space.reserve(6 * MIB, files=0, what="n"),
        ):
            pass
        process.kill()


def test_inodes_are_promised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.statvfs_result((4096, 4096, 10**6, 10**6, 10**6, 1000, 100, 100, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: found)
    store = Store(tmp_path / "root")
    with store.space.reserve(0, files=30, what="m"):
        assert store.space.measure().inodes_free == 40
        assert [(each.what, each.inodes) for each in store.space.measure().promises] == [("m", 60)]
        with (
            pytest.raises(InsufficientDisk, match=r"n needs 42 inodes and .* has 40 left"),
            Store(tmp_path / "root").space.reserve(0, files=21, what="n"),
        ):
            pass
    with store.space.reserve(0, files=50, what="n"):
        pass


@pytest.mark.parametrize(
    ("keep_free", "kept"),
    [(KeepFree(ratio=0.05), 50), (KeepFree(ratio=0.2), 100), (KeepFree(bytes=MIB), 0)],
    ids=["a share", "a large share", "a size"],
)
def test_inodes_are_kept_free_as_bytes_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_free: KeepFree, kept: int
) -> None:
    """Kubelet evicts pods where less than 5 % of them are left."""
    found = os.statvfs_result((4096, 4096, 10**6, 10**6, 10**6, 1000, 120, 120, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: found)
    store = Store(tmp_path / "root", keep_free=keep_free)
    left = 120 - kept
    with store.space.reserve(0, files=left // 2, what="m"):
        pass
    with (
        pytest.raises(InsufficientDisk, match=rf"has {left} left \({kept} are kept free\)"),
        store.space.reserve(0, files=left // 2 + 1, what="m"),
    ):
        pass
    assert (store.space.measure().inodes_free, store.space.measure().inodes_kept) == (120, kept)


def test_between_two_counts_is_added_what_comes_and_goes(tmp_path: Path) -> None:
    store = Store(tmp_path / "root")
    before = store.space.measure().used
    with store.space.reserve(MIB, files=1, what="m") as reservation:
        reservation.consume(MIB)
    assert store.space.measure().used == before + MIB
    assert store.space.measure(exact=True).used == measure_usage(store.layout.root).bytes
    put(store, "m", {"a": b"x" * MIB})
    store.space.measure(exact=True)
    there = store.space.measure().used
    freed = store.evict("m")
    assert freed >= MIB
    assert store.space.measure().used == there - freed


def test_what_is_on_the_disk_is_not_promised_as_well(limited: Callable[..., Store]) -> None:
    """To the byte: what other processes are told is a little behind."""
    store = limited(10 * MIB)
    with store.space.reserve(6 * MIB, files=0, what="m") as reservation:
        partial = store.ingest.claim("sha256-m", 300_000)
        try:
            took = partial.allocate()
            reservation.consume(took)
            space = store.space.measure(exact=True)
            assert space.reserved == 6 * MIB - took
            assert space.available == 10 * MIB - space.used - space.reserved
        finally:
            partial.discard()
