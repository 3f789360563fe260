"""Agents on one root see each other, as long as they live."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from modelcache.store import Store
from modelcache.store.companions import Companions


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
