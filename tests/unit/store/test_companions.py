"""Agents on one root see each other, as long as they live."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelcache.store import Store, companions
from modelcache.store.companions import Companions
from modelcache.store.locking import Lock, try_lock


@pytest.fixture
def one(store: Store) -> Companions:
    found = Companions(store.layout)
    found.join()
    return found


def test_one_alone_sees_nobody(one: Companions) -> None:
    assert one.others() == ()


def test_two_see_each_other_until_one_leaves(one: Companions, store: Store) -> None:
    other = Companions(store.layout)
    assert one.others() == ()
    other.join()
    (seen,) = one.others()
    assert seen.startswith(f"process {os.getpid()} of ")
    assert len(other.others()) == 1
    other.leave()
    assert one.others() == ()
    one.leave()
    assert list(store.layout.agents.iterdir()) == []


def test_who_is_no_agent_sees_none_and_is_seen_by_none(one: Companions, store: Store) -> None:
    command = Companions(store.layout)
    assert command.others() == ()
    assert one.others() == ()


def test_one_that_was_killed_is_gone(one: Companions, store: Store) -> None:
    ready, write = os.pipe()
    child = os.fork()
    if child == 0:
        Companions(store.layout).join()
        os.write(write, b"x")
        signal.pause()
    os.read(ready, 1)
    try:
        assert one.others()[0].startswith(f"process {child} of ")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert one.others() == ()
    assert len(list(store.layout.agents.iterdir())) == 1


def test_two_looks_at_once_take_none_that_was_killed_for_alive(
    one: Companions, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store.layout.agents / "dead.lock").touch()
    looked = threading.Semaphore(0)
    go_on = threading.Event()

    def slowly(path: Path) -> Lock | None:
        lock = try_lock(path)
        looked.release()
        assert go_on.wait(10)
        return lock

    monkeypatch.setattr(companions, "try_lock", slowly)
    with ThreadPoolExecutor(2) as pool:
        looks = [pool.submit(one.others), pool.submit(one.others)]
        assert looked.acquire(timeout=10)
        both = looked.acquire(timeout=0.2)
        go_on.set()
        assert [each.result(10) for each in looks] == [(), ()]
    assert not both


def test_on_a_disk_that_is_down_nothing_is_open(one: Companions, store: Store) -> None:
    other = Companions(store.layout)
    other.join()
    one.attend(lambda: True)
    assert other.others() == ()
    one.attend(lambda: False)
    one.attend(lambda: False)
    assert len(other.others()) == 1


def test_two_that_join_for_one_join_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one, looked, go_on = Companions(store.layout), threading.Semaphore(0), threading.Event()

    def slowly(path: Path) -> Lock | None:
        lock = try_lock(path)
        looked.release()
        assert go_on.wait(10)
        return lock

    monkeypatch.setattr(companions, "try_lock", slowly)
    with ThreadPoolExecutor(2) as pool:
        joins = [pool.submit(one.join), pool.submit(one.attend, lambda: False)]
        assert looked.acquire(timeout=10)
        looked.acquire(timeout=0.2)
        go_on.set()
        for each in joins:
            each.result(10)
    Companions(store.layout).join()
    assert len(one.others()) == 1, "it knows that it is here"


def test_who_ends_waits_for_no_disk_that_hangs(
    one: Companions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(companions, "_LEAVE_SECONDS", 0.01)
    hangs, go_on = threading.Event(), threading.Event()

    def is_down() -> bool:
        hangs.set()
        return go_on.wait(10)

    with ThreadPoolExecutor(1) as pool:
        attending = pool.submit(one.attend, is_down)
        assert hangs.wait(10)
        one.leave()
        assert not attending.done()
        go_on.set()


@pytest.mark.parametrize("said", [b"", b"\xff\x00\n", b"x" * 100_000])
def test_what_is_said_is_told_within_bounds(one: Companions, store: Store, said: bytes) -> None:
    other = Companions(store.layout)
    other.join()
    (path,) = (p for p in store.layout.agents.iterdir() if p != one._path)
    path.write_bytes(said)
    (seen,) = one.others()
    assert 0 < len(seen) <= 200
    assert seen.isprintable()


def test_what_lies_there_besides_is_nobody(one: Companions, store: Store, tmp_path: Path) -> None:
    (store.layout.agents / "note.txt").write_text("x")
    (store.layout.agents / "folder.lock").mkdir()
    (store.layout.agents / "link.lock").symlink_to(tmp_path / "target")
    assert one.others() == ()
    assert not (tmp_path / "target").exists()
