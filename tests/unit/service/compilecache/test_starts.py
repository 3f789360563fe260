"""What is remembered of starts, and of bundles that were withdrawn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from modelcache.compilecache.starts import marks as marking
from modelcache.compilecache.starts.holding import Holding
from modelcache.compilecache.starts.marks import Marks
from modelcache.service.compilecache.starts import StartBook
from modelcache.store import Store
from modelcache.store.durable import Durable

KEY = "a" * 64


class Books:
    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "root")
        durable = Durable(self.store.layout.scratch)
        self.holding = Holding(self.store.layout, durable)
        self.marks = Marks(self.store.layout, durable)
        self.starts = StartBook(self.holding, self.marks)

    def hold(self, digest: str) -> None:
        """A bundle, by its names alone."""
        folder = self.store.layout.compile_bundle("c", KEY, digest.removeprefix("sha256:"))
        folder.mkdir(parents=True)
        (folder / "bundle.json").touch()


@pytest.fixture
def books(tmp_path: Path) -> Books:
    return Books(tmp_path)


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def test_what_was_withdrawn_last_is_told_first(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report has room for a few, and what was told once is in the object's status."""
    numbers = [7, 3, 19, 1, 12, 5]
    for minute, number in enumerate(numbers):
        now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
        monkeypatch.setattr(marking, "_now", lambda now=now: now)
        books.marks.withdraw("c", digest(number), "can't be loaded")
    told = [each.digest for each in books.starts.withdrawn("c")]
    assert told == [digest(number) for number in reversed(numbers)]


def test_after_a_restart_the_key_of_what_was_withdrawn_is_known_while_it_is_here(
    books: Books,
) -> None:
    """Without it no status has room for it, and other nodes go on with the bundle."""
    books.hold(digest(1))
    books.marks.withdraw("c", digest(1), "can't be loaded")
    books.marks.withdraw("c", digest(2), "gone since")
    assert {each.digest: each.key for each in books.starts.withdrawn("c")} == {
        digest(1): KEY,
        digest(2): "",
    }


def test_what_is_gone_is_forgotten(books: Books) -> None:
    books.marks.loaded("c", digest(1))
    assert books.starts.verified("c") == {digest(1)}
    books.holding.forget("c")
    assert books.starts.verified("c") == set()
    assert not books.starts._read
