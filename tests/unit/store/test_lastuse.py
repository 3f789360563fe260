from __future__ import annotations

import pytest

from modelcache.store import Store
from modelcache.store.lastuse import LastUse

R1, R2 = ("m", "r1"), ("m", "r2")
THERE = {R1, R2}


def opened(store: Store) -> LastUse:
    return LastUse(store.layout, store._durable)


def test_the_last_use_is_known_after_a_restart(store: Store) -> None:
    opened(store).note([R1], THERE, 100.0)
    opened(store).note([R2], THERE, 200.0)
    assert opened(store).all() == {R1: 100.0, R2: 200.0}
    assert opened(store).of("m", "r1") == 100.0
    assert opened(store).of("m", "r3") is None


def test_what_is_gone_is_forgotten(store: Store) -> None:
    use = opened(store)
    use.note([R1, R2, ("never", "there")], THERE, 100.0)
    use.note([], {R2}, 200.0)
    assert opened(store).all() == {R2: 100.0}


def test_nothing_is_written_without_news(store: Store) -> None:
    use = opened(store)
    use.note([], THERE, 100.0)
    assert not store.layout.last_use.exists()
    use.note([R1], THERE, 100.0)
    before = store.layout.last_use.stat().st_ino
    use.note([], THERE, 200.0)
    assert store.layout.last_use.stat().st_ino == before


def test_a_use_ahead_of_a_clock_that_was_set_back_was_now(store: Store) -> None:
    use = opened(store)
    use.note([R1], THERE, 5000.0)
    use.note([R2], THERE, 100.0)
    assert opened(store).all() == {R1: 100.0, R2: 100.0}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2, "models": {"m": {"r1": 1}}}',
        b'{"version": 1, "models": []}',
        b'{"version": 1, "models": {"m": {"r1": "then"}}}',
        b"[" * 100_000,
    ],
)
def test_rubbish_says_nothing_and_is_written_anew(store: Store, content: bytes) -> None:
    store.layout.last_use.parent.mkdir()
    store.layout.last_use.write_bytes(content)
    use = opened(store)
    assert use.all() == {}
    use.note([R1], THERE, 100.0)
    assert opened(store).all() == {R1: 100.0}


def test_times_that_are_no_times_are_passed_over(store: Store) -> None:
    store.layout.last_use.parent.mkdir()
    store.layout.last_use.write_text('{"version": 1, "models": {"m": {"r1": NaN, "r2": 5}}}')
    assert opened(store).all() == {R2: 5.0}
