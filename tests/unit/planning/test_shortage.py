"""What all models lack together for which there is no room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.planning.candidates import Candidate, Revision, Role
from modelcache.planning.evicting import Amount, Room, decide
from modelcache.planning.leftovers import Leftover
from modelcache.planning.rules import Hold, Rule
from modelcache.planning.shortage import Newcomer, shortage
from modelcache.planning.using import User, Uses

NOW, GRACE = 10_000.0, 100.0


def new(name: str, size: int, priority: int = 0, inodes: int = 0, kept: int = 0) -> Newcomer:
    return Newcomer(name, priority, Amount(size, inodes), Amount(kept))


def here(name: str, size: int, priority: int = 0, *, pinned: bool = False) -> Candidate:
    made = Revision("r1", {f"of-{name}": size}, Role.PRESENT)
    return Candidate(name, (made,), priority=priority, pinned=pinned)


def unwanted(name: str, size: int) -> Candidate:
    made = Revision("r1", {f"of-{name}": size}, Role.LAST)
    return Candidate(name, (made,), wanted=False, unwanted_since=0.0)


def missing(
    *newcomers: Newcomer,
    left: int = 0,
    inodes: int = 1 << 40,
    there: tuple[Candidate, ...] = (),
    leftovers: tuple[Leftover, ...] = (),
    uses: Uses = Uses(),  # noqa: B008 - it never changes
) -> Amount:
    return shortage(
        newcomers, Amount(left, inodes), there, uses, now=NOW, grace=GRACE, leftovers=leftovers
    )


LEFT = Leftover("dropped", "partial/k", Rule.LEFTOVER, "left", {"partial/k": 40})
HELD = Leftover("b", "partial/b", Rule.LEFTOVER, "", {"partial/b": 40}, held=(Hold.WANTED, "its"))


@pytest.mark.parametrize(
    ("newcomers", "left", "there", "expected"),
    [
        ((), 50, (), 0),
        ((new("a", 150),), 50, (), 100),
        ((new("a", 150), new("b", 150)), 50, (), 250),
        # What is missing already is missing once.
        ((new("a", 10), new("b", 10)), -5, (), 25),
        # The more important one takes what is free, and what goes for both of them goes once.
        ((new("low", 60), new("high", 150, 9)), 50, (), 160),
        ((new("a", 80), new("b", 80)), 50, (unwanted("gone", 30),), 80),
        ((new("a", 80), new("b", 80)), 50, (here("pinned", 30, -1, pinned=True),), 110),
        # What may go for the more important one alone helps the other only by what is left of it.
        ((new("high", 80, 9), new("low", 40, 1)), 0, (here("mid", 100, 5),), 20),
        ((new("high", 80, 9), new("low", 15, 1)), 0, (here("mid", 100, 5),), 0),
        # What is kept for others is nobody's.
        ((new("a", 60, kept=20), new("b", 60, kept=20)), 50, (), 90),
    ],
)
def test_what_is_free_is_there_once(
    newcomers: tuple[Newcomer, ...], left: int, there: tuple[Candidate, ...], expected: int
) -> None:
    assert missing(*newcomers, left=left, there=there).bytes == expected


def test_what_fetches_left_goes_once_and_what_is_held_never() -> None:
    found = missing(new("a", 50), new("c", 50), leftovers=(LEFT, HELD))
    assert found.bytes == 60


def test_what_is_used_helps_nobody() -> None:
    uses = Uses((User("pod", "default/x", "gone", how="mounts it"),))
    there = (unwanted("gone", 30),)
    assert missing(new("a", 80), new("b", 80), left=50, there=there, uses=uses).bytes == 110


def test_inodes_are_missing_like_bytes_and_bytes_are_not_used_up_by_it() -> None:
    found = missing(new("a", 10, inodes=7), new("b", 10, inodes=7), left=15, inodes=5)
    assert (found.bytes, found.inodes) == (5, 9)
    # All that may go goes for the first, in vain: what that gives in bytes is the second's.
    found = missing(
        new("a", 10, inodes=7), new("b", 30), left=10, inodes=0, there=(unwanted("gone", 25),)
    )
    assert (found.bytes, found.inodes) == (5, 6)


newcomers_of_one_priority = st.lists(st.integers(1, 300), min_size=1, max_size=6).map(
    lambda sizes: [new(f"n{number}", size, 3) for number, size in enumerate(sizes)]
)
models = st.lists(
    st.tuples(st.sampled_from([-1, 2, 3, 7]), st.integers(1, 120), st.booleans()), max_size=6
).map(
    lambda found: tuple(
        here(f"m{number}", size, priority, pinned=pinned)
        for number, (priority, size, pinned) in enumerate(found)
    )
)


@given(newcomers_of_one_priority, models, st.integers(-50, 400))
def test_it_is_all_that_they_need_less_all_that_there_is(
    newcomers: list[Newcomer], there: tuple[Candidate, ...], left: int
) -> None:
    may_go = sum(
        revision.size
        for candidate in there
        if candidate.priority < 3 and not candidate.pinned
        for revision in candidate.revisions
    )
    needed = sum(each.need.bytes for each in newcomers)
    assert missing(*newcomers, left=left, there=there).bytes == max(0, needed - left - may_go)


@given(st.permutations(["a", "b", "c", "d"]), models, st.integers(0, 200))
def test_in_whatever_order_they_are_given(
    names: list[str], there: tuple[Candidate, ...], left: int
) -> None:
    known = {name: new(name, 70 + 10 * n, n % 3 + 1) for n, name in enumerate("abcd")}
    expected = missing(*known.values(), left=left, there=there)
    assert missing(*(known[name] for name in names), left=left, there=there) == expected


@given(st.integers(1, 400), st.integers(-1, 8), models, st.integers(-50, 200))
def test_one_alone_lacks_what_it_is_refused_for(
    size: int, priority: int, there: tuple[Candidate, ...], left: int
) -> None:
    lack = Amount(left).lacks(Amount(size))
    refused = decide(there, Uses(), Room("n", priority, lack), now=NOW, grace=GRACE).missing
    found = missing(new("n", size, priority), left=left, there=there)
    assert found == (refused if lack else Amount())
