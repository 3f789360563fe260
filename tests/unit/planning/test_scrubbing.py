"""Each blob is read back once in so long, wherever the clock and the restarts are."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.planning.scrubbing import Stored, due_at, in_order

EVERY = 7 * 86_400.0
NOW = 1_800_000_000.0


def blob(name: object, arrived: float = NOW, size: int = 1) -> Stored:
    return Stored(hashlib.sha256(str(name).encode()).hexdigest(), size, arrived)


def test_what_was_read_back_is_due_again_after_so_long() -> None:
    assert due_at(blob("a"), NOW - 5, EVERY, NOW) == NOW - 5 + EVERY


@given(st.text(max_size=8), st.floats(0, NOW))
def test_what_was_never_read_back_is_due_within_the_first_round(name: str, arrived: float) -> None:
    assert arrived < due_at(blob(name, arrived), None, EVERY, NOW) <= arrived + EVERY


def test_what_arrived_together_is_not_due_together() -> None:
    """So that no disk is read for hours at a stretch."""
    blobs = {each.digest: each for each in map(blob, range(1000))}
    due = [at for at, _ in in_order(blobs, {}, EVERY, NOW)]
    assert max(after - before for before, after in pairwise(due)) < EVERY / 50
    for tenth in range(10):
        start = NOW + tenth * EVERY / 10
        assert 50 < sum(start < at <= start + EVERY / 10 for at in due) < 150


def test_that_stays_so_in_later_rounds() -> None:
    blobs = {each.digest: each for each in map(blob, range(100))}
    first = list(in_order(blobs, {}, EVERY, NOW))
    checked = {each.digest: at for at, each in first}
    second = list(in_order(blobs, checked, EVERY, NOW + EVERY))
    assert [(at - EVERY, each) for at, each in second] == first


def test_the_longest_unread_comes_first() -> None:
    one, two, three = blob("1"), blob("2"), blob("3")
    checked = {one.digest: NOW - 1, two.digest: NOW - 3, three.digest: NOW - 2}
    order = in_order({each.digest: each for each in (one, two, three)}, checked, EVERY, NOW)
    assert [each for _, each in order] == [two, three, one]


@pytest.mark.parametrize("ahead", [86_400.0, 365 * 86_400.0])
def test_a_note_of_a_clock_that_was_wrong_keeps_nothing_from_being_read(ahead: float) -> None:
    """Else, after a year ahead, nothing would be read back for a year."""
    fresh = blob("a", arrived=NOW - 60)
    assert due_at(fresh, NOW + ahead, EVERY, NOW) <= NOW + EVERY
    assert due_at(blob("a", arrived=NOW + ahead), None, EVERY, NOW) == NOW
    assert due_at(blob("a", arrived=NOW + ahead), NOW + ahead, EVERY, NOW) == NOW


@given(
    st.lists(st.tuples(st.floats(0, 2 * NOW), st.none() | st.floats(0, 2 * NOW)), max_size=20),
    st.floats(60, 10 * EVERY),
)
def test_nothing_is_ever_put_off_for_longer_than_so_long(
    given_blobs: list[tuple[float, float | None]], every: float
) -> None:
    blobs, checked = {}, {}
    for number, (arrived, at) in enumerate(given_blobs):
        each = blob(number, arrived)
        blobs[each.digest] = each
        if at is not None:
            checked[each.digest] = at
    order = list(in_order(blobs, checked, every, NOW))
    assert {each.digest for _, each in order} == blobs.keys()
    assert all(at <= NOW + every + 3600 for at, _ in order)
    assert [at for at, _ in order] == sorted(at for at, _ in order)
