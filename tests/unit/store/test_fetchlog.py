from __future__ import annotations

import pytest

from modelcache.store import Store
from modelcache.store.fetchlog import Evicted, FetchLog

R1, R2 = ("m", "r1"), ("m", "r2")
THERE = {R1, R2}
DAY = 86_400.0


def opened(store: Store) -> FetchLog:
    return FetchLog(store.layout, store._durable)


def test_what_fetches_took_is_known_after_a_restart(store: Store) -> None:
    opened(store).note_fetch(*R1, 12.5, THERE, 100.0)
    opened(store).note_fetch(*R2, 3.0, THERE, 200.0)
    assert (opened(store).took(*R1), opened(store).took(*R2)) == (12.5, 3.0)
    assert opened(store).took("m", "r3") is None


def test_a_file_that_was_healed_is_no_fetch_of_the_model(store: Store) -> None:
    log = opened(store)
    log.note_fetch(*R1, 600.0, THERE, 100.0)
    log.note_fetch(*R1, 2.0, THERE, 200.0)
    assert opened(store).took(*R1) == 600.0


def test_what_is_gone_is_forgotten(store: Store) -> None:
    log = opened(store)
    log.note_fetch(*R1, 1.0, THERE, 100.0)
    log.note_fetch(*R2, 1.0, {R2}, 200.0)
    assert opened(store).took(*R1) is None


def test_an_eviction_is_known_for_a_day(store: Store) -> None:
    opened(store).note_eviction("m", ["r1"], "Unwanted", 100.0)
    log = opened(store)
    assert log.evicted("m", "r1", 100.0 + DAY) == Evicted("Unwanted", 100.0)
    assert log.evicted("m", "r1", 101.0 + DAY) is None
    assert log.evicted("m", "r2", 100.0) is None
    log.note_eviction("m", ["r2"], "OldRevision", 200.0 + DAY)
    assert b"Unwanted" not in store.layout.fetch_log.read_bytes()


def test_what_was_fetched_again_is_evicted_no_longer(store: Store) -> None:
    log = opened(store)
    log.note_fetch(*R1, 9.0, THERE, 100.0)
    log.note_eviction("m", ["r1"], "Unwanted", 200.0)
    assert log.took(*R1) is None, "the next fetch may take longer or shorter"
    log.note_fetch(*R1, 5.0, THERE, 300.0)
    assert log.took(*R1) == 5.0
    assert log.evicted("m", "r1", 301.0) is None


def test_an_eviction_ahead_of_a_clock_that_was_set_back_was_now(store: Store) -> None:
    log = opened(store)
    log.note_eviction("m", ["r1"], "Unwanted", 5000.0)
    log.note_eviction("m", ["r2"], "Unwanted", 100.0)
    assert opened(store).evicted("m", "r1", 200.0) == Evicted("Unwanted", 100.0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2, "fetched": {"m": {"r1": 1}}, "evicted": {}}',
        b'{"version": 1, "fetched": {"m": {"r1": 1}}}',
        b'{"version": 1, "fetched": [], "evicted": {}}',
        b'{"version": 1, "fetched": {"m": {"r1": NaN}}, "evicted": {}}',
        b'{"version": 1, "fetched": {"m": {"r1": -1}}, "evicted": {}}',
        b'{"version": 1, "fetched": {}, "evicted": {"m": {"r1": {"rule": "Unwanted"}}}}',
        b'{"version": 1, "fetched": {}, "evicted": {"m": {"r1": {"rule": "", "at": Infinity}}}}',
        b"[" * 100_000,
    ],
)
def test_rubbish_says_nothing_and_is_written_anew(store: Store, content: bytes) -> None:
    store.layout.fetch_log.parent.mkdir(exist_ok=True)
    store.layout.fetch_log.write_bytes(content)
    log = opened(store)
    assert log.took(*R1) is None
    assert log.evicted(*R1, 0.0) is None
    log.note_fetch(*R2, 1.0, THERE, 100.0)
    assert opened(store).took(*R2) == 1.0
