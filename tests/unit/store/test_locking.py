"""Locks: between processes by flock, between threads in any case."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from modelcache.store import Store
from modelcache.store.locking import Turns, locks_work, try_lock


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    lock = try_lock(tmp_path / "lock")
    assert lock is not None
    assert try_lock(tmp_path / "lock") is None
    lock.release()
    assert try_lock(tmp_path / "lock") is not None


def test_a_lock_taken_away_with_its_file_is_free(tmp_path: Path) -> None:
    lock = try_lock(tmp_path / "lock")
    assert lock is not None
    lock.release(remove=True)
    assert os.listdir(tmp_path) == []
    assert try_lock(tmp_path / "lock") is not None


def test_a_lock_whose_file_was_just_removed_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real, calls = tmp_path / "lock", fcntl.flock, list[int]()

    def flock(fd: int, operation: int) -> None:
        calls.append(fd)
        real(fd, operation)
        if len(calls) == 1:  # its holder removes the file, and a third makes it anew
            path.unlink()
            path.touch()

    monkeypatch.setattr(fcntl, "flock", flock)
    lock = try_lock(path)
    assert lock is not None
    assert os.path.samestat(os.fstat(lock._fd), path.stat())


def test_another_process_is_kept_out_until_it_dies(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from modelcache.store.locking import try_lock;"
        "lock = try_lock(Path(sys.argv[1])); print(lock is not None, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == b"True\n"
        assert try_lock(tmp_path / "lock") is None
        process.kill()
        process.wait()
        assert try_lock(tmp_path / "lock") is not None


def test_a_lock_in_a_directory_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        try_lock(tmp_path / "gone" / "lock")
    (tmp_path / "gone").mkdir()
    assert try_lock(tmp_path / "gone" / "lock") is not None


def test_locks_that_work_are_found_out(tmp_path: Path) -> None:
    assert locks_work(tmp_path / "lock")
    with Turns(tmp_path / "lock").take():
        assert locks_work(tmp_path / "lock")


def refuse(*given: Any) -> None:
    raise OSError(errno.ENOLCK, "no locks available")


@pytest.mark.parametrize("flock", [lambda *_: None, refuse], ids=["silent", "refused"])
def test_locks_that_do_nothing_are_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flock: Any
) -> None:
    monkeypatch.setattr(fcntl, "flock", flock)
    assert not locks_work(tmp_path / "lock")


def test_threads_are_kept_apart_without_flock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert try_lock(tmp_path / "lock") is not None
    assert try_lock(tmp_path / "lock") is None


def test_turns_are_taken_one_at_a_time(tmp_path: Path) -> None:
    one, other = Turns(tmp_path / "lock"), Turns(tmp_path / "lock")
    order: list[str] = []
    entered = threading.Event()

    def second() -> None:
        entered.set()
        with other.take():
            order.append("second")

    with one.take():
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait()
        thread.join(0.1)
        with one.take():
            order.append("first, and again")
    thread.join()
    assert order == ["first, and again", "second"]


def test_who_hangs_in_a_turn_holds_the_others_up_for_a_while_only(tmp_path: Path) -> None:
    with Turns(tmp_path / "lock").take(), Turns(tmp_path / "lock", patience=0.05).take():
        pass


def test_a_root_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelcache.errors import StoreDamaged

    Store(tmp_path)

    def read_only(*given: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(fcntl, "flock", read_only)
    with pytest.raises(StoreDamaged, match="can't be written: Read-only"):
        Store(tmp_path)
