"""A disk that is full, has no inodes or quota left, is read-only or fails: for each kind of note.

A write that fails says so, leaves what was there before and nothing half made, and works again as
soon as the disk does.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from modelcache.errors import InsufficientDisk
from modelcache.store import Store
from tests.component.store.test_full_disk import fill_to_the_brim
from tests.support.mounts import loop_mounted, run, tmpfs
from tests.support.store import OTHER_COMMIT, REPOSITORY, check, described, put

MEBIBYTE = 1 << 20
FILES = {"a/w": b"weights", "config.json": b"{}"}
NEXT = {**FILES, "config.json": b"[]"}
KEY = ("m", "a" * 40)

Write = Callable[[Store], object]


def reserve(store: Store) -> None:
    with store.space.reserve(1000, files=1, what="m"):
        pass


WRITES: dict[str, Write] = {
    "lease": lambda store: store.leases.take("m", 60.0),
    "last use": lambda store: store.last_use.note([KEY], {KEY}, 2.0),
    "receipt": lambda store: store.record("n", "s", described("w", b"weights")),
    "listing": lambda store: store.listings.write("0" * 64, "", ()),
    "reservation": reserve,
    "model": lambda store: put(store, "m", NEXT, commit=OTHER_COMMIT, repository=REPOSITORY),
    "another model": lambda store: put(store, "other", FILES, repository=REPOSITORY),
    "switch": lambda store: store.show(store.snapshots("m")[0]),
}
EACH = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)


def filled(root: Path) -> Store:
    """A store with a model of two revisions and a note of each kind."""
    store = Store(root)
    put(store, "m", FILES, repository=REPOSITORY)
    put(store, "m", {"w": b"old"}, commit="c" * 40, repository=REPOSITORY)
    store.leases.take("m", 3600.0)
    store.last_use.note([KEY], {KEY}, 1.0)
    return store


def seen(store: Store) -> object:
    """What a process that starts now would know."""
    fresh = Store(store.layout.root)
    check(fresh)
    return (
        [(m.model, m.snapshot) for m in fresh.manifests()],
        {name: m.snapshot for name, m in fresh.shown().items()},
        fresh.last_use.all(),
        [lease.id for lease in fresh.leases.all()],
        fresh.history("m"),
    )


def fails(store: Store, write: Write, *numbers: int) -> None:
    """It says why. Some need no room for what they do."""
    full = {errno.ENOSPC, errno.EDQUOT} & {*numbers}
    with suppress(InsufficientDisk) if full else allowed(*numbers):
        write(store)


@contextmanager
def allowed(*numbers: int) -> Iterator[None]:
    """An OSError with one of these numbers, or none."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


def works(store: Store, write: Write) -> None:
    assert list(store.layout.scratch.iterdir()) == [], "left by what failed"
    write(store)
    check(store)
    store.sweep(older_than=0)
    assert list(store.layout.scratch.iterdir()) == []
    assert list(store.layout.staging.iterdir()) == []
    assert list(store.layout.reservations.iterdir()) == []


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with ExitStack() as mounted:
        if request.param == "tmpfs":
            made = tmpfs(tmp_path / "disk", 16 * MEBIBYTE)
        else:
            made = loop_mounted(tmp_path / "disk", 32 * MEBIBYTE, "mkfs.ext4", "-q", "-m", "0")
        yield mounted.enter_context(made)


@pytest.mark.root
@EACH
def test_a_full_disk(disk: Path, write: Write) -> None:
    store = filled(disk)
    ballast = fill_to_the_brim(disk)
    fails(store, write, errno.ENOSPC)
    check(Store(disk))
    ballast.unlink()
    works(store, write)


@pytest.mark.root
@EACH
def test_no_inodes(tmp_path: Path, write: Write) -> None:
    with tmpfs(tmp_path / "disk", 16 * MEBIBYTE, inodes=300) as disk:
        store = filled(disk)
        many = disk / "many"
        many.mkdir()
        with suppress(OSError):
            for number in range(300):
                (many / str(number)).touch()
        assert os.statvfs(disk).f_ffree == 0
        fails(store, write, errno.ENOSPC)
        check(Store(disk))
        for path in many.iterdir():
            path.unlink()
        works(store, write)


@pytest.mark.root
@EACH
def test_a_disk_that_becomes_read_only(disk: Path, write: Write) -> None:
    """As ext4 does by itself after an error (errors=remount-ro)."""
    store = filled(disk)
    before = seen(store)
    run("mount", "-o", "remount,ro", str(disk))
    fails(store, write, errno.EROFS)
    assert {m.model for m in store.manifests()} == {"m"}
    run("mount", "-o", "remount,rw", str(disk))
    assert seen(store) == before
    works(store, write)


@EACH
@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT], ids=["EIO", "EDQUOT"])
@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_call_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write, number: int, call: str
) -> None:
    """Each time in turn that it is called."""
    for turn in range(40):
        root = tmp_path / str(turn)
        store = filled(root)
        with monkeypatch.context() as patch:
            refused = refuse(patch, call, number, turn)
            fails(store, write, number)
        check(Store(root))
        works(store, write)
        if not refused:
            return
    raise AssertionError("it never ends")


def refuse(patch: pytest.MonkeyPatch, call: str, number: int, turn: int) -> list[str]:
    """Let a call fail once, after so many; what failed."""
    real, refused, calls = getattr(os, call), list[str](), iter(range(turn))

    def failing(*given: object) -> object:
        if not refused and next(calls, None) is None:
            refused.append(call)
            raise OSError(number, os.strerror(number), "here")
        return real(*given)

    patch.setattr(os, call, failing)
    return refused
