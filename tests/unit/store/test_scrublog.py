"""When each blob was read back is known after a restart, whatever became of the file."""

from __future__ import annotations

import os

import pytest

from modelcache.store import Store
from modelcache.store.durable import Durable
from modelcache.store.scrublog import ScrubLog
from tests.support.store import digest_of, put

ONE, TWO = digest_of(b"1"), digest_of(b"2")


@pytest.fixture
def log(store: Store) -> ScrubLog:
    return store.scrub_log


def test_the_later_note_counts(log: ScrubLog, store: Store) -> None:
    assert log.read() == {}
    log.sync()
    log.note(ONE, 100.9)
    log.note(TWO, 7)
    log.note(ONE, 200)
    log.sync()
    assert Store(store.layout.root).scrub_log.read() == {ONE: 200, TWO: 7}


@pytest.mark.parametrize(
    "rubbish",
    [b"", b"\xff\x00", b"x" * 500, ONE.encode(), ONE.encode() + b" 12", b"../../x 5", b"\n\n\n"],
)
def test_a_torn_line_is_passed_over(log: ScrubLog, store: Store, rubbish: bytes) -> None:
    log.note(TWO, 7)
    with store.layout.scrub_log.open("ab") as file:
        file.write(rubbish)
    log.note(TWO, 8)
    assert log.read()[TWO] == 8
    assert log.read().keys() <= {ONE, TWO}


def test_what_can_t_be_read_says_nothing(log: ScrubLog, store: Store) -> None:
    store.layout.scrub_log.mkdir()
    assert log.read() == {}


def test_it_is_written_anew_when_most_of_it_is_old(log: ScrubLog, store: Store) -> None:
    for second in range(200):
        log.note(ONE, second)
    log.note(TWO, 7)
    size = store.layout.scrub_log.stat().st_size
    log.rewrite(log.read(), {ONE})
    assert log.read() == {ONE: 199}
    assert store.layout.scrub_log.stat().st_size < size / 50
    inode = store.layout.scrub_log.stat().st_ino
    log.rewrite(log.read(), {ONE})
    assert store.layout.scrub_log.stat().st_ino == inode


def test_a_link_in_its_place_is_not_followed(log: ScrubLog, store: Store) -> None:
    other = store.layout.root.parent / "other"
    other.write_bytes(b"")
    store.layout.scrub_log.symlink_to(other)
    with pytest.raises(OSError, match="symbolic"):
        log.note(ONE, 1)
    assert other.read_bytes() == b""


def test_a_sweep_forgets_what_is_gone(store: Store) -> None:
    for name in ("a", "b"):
        put(store, name, {"w": name.encode()})
        store.note_checked(digest_of(name.encode()))
    for second in range(200):
        store.note_checked(digest_of(b"a"), second)
    store.evict("a")
    store.sweep()
    assert store.scrub_log.read().keys() == {digest_of(b"b")}
    store.evict("b")
    store.sweep()
    assert not store.layout.scrub_log.exists()


def test_notes_survive_a_power_cut_once_they_are_synced(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    really = Durable.sync

    def sync(self: Durable, fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        really(self, fd)

    monkeypatch.setattr(Durable, "sync", sync)
    store.scrub_log.note(ONE, 1)
    store.scrub_log.sync()
    assert synced == [str(store.layout.scrub_log)]
