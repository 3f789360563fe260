"""What goes and what stays, by example."""

from __future__ import annotations

import pytest

from modelcache.planning.candidates import Candidate, Revision, Role
from modelcache.planning.evicting import (
    Above,
    Amount,
    Decision,
    GraceOver,
    Hold,
    Occasion,
    Room,
    Rule,
    decide,
)
from modelcache.planning.using import User, Uses

NOW = 10_000.0
GRACE = 600.0
LONG_AGO = NOW - 2 * GRACE


def unwanted(name: str, size: int = 10, since: float | None = LONG_AGO) -> Candidate:
    made = Revision("r1", {f"of-{name}": size}, Role.LAST)
    return Candidate(name, (made,), wanted=False, unwanted_since=since)


def wanted(
    name: str, size: int = 10, priority: int = 0, *, used_at: float = 0.0, pinned: bool = False
) -> Candidate:
    made = Revision("r1", {f"of-{name}": size}, Role.PRESENT, used_at)
    return Candidate(name, (made,), priority=priority, pinned=pinned)


def room(size: int, priority: int = 5, model: str = "new") -> Room:
    return Room(model, priority, Amount(size))


def decided(
    *candidates: Candidate,
    on: Occasion,
    uses: Uses = Uses(),  # noqa: B008 - it never changes
    grace: float | None = GRACE,
) -> Decision:
    return decide(candidates, uses, on, now=NOW, grace=grace)


def going(decision: Decision) -> list[tuple[str, Rule]]:
    return [(each.model, each.rule) for each in decision.going]


def hold(decision: Decision, model: str) -> Hold:
    return next(each.hold for each in decision.staying if each.model == model)


def why(decision: Decision, model: str) -> str:
    return next(each.why for each in decision.staying if each.model == model)


def test_the_order_is_unwanted_then_old_then_low_then_long_unused() -> None:
    old = Candidate(
        "old", (Revision("r1", {"o1": 10}, Role.OLD), Revision("r2", {"o2": 10})), priority=9
    )
    everything = [
        wanted("mid", priority=2),
        wanted("used", priority=1, used_at=500.0),
        wanted("unused", priority=1, used_at=100.0),
        old,
        unwanted("gone"),
    ]
    order = [
        ("gone", Rule.UNWANTED),
        ("old", Rule.OLD_REVISION),
        ("unused", Rule.LOWER_PRIORITY),
        ("used", Rule.LOWER_PRIORITY),
        ("mid", Rule.LOWER_PRIORITY),
    ]
    for number in range(1, 6):
        decision = decided(*everything, on=room(10 * number))
        assert going(decision) == order[:number]
        assert decision.frees == Amount(10 * number, number)
        assert not decision.missing
    assert decided(*everything, on=room(51)).missing == Amount(1)


def test_nothing_goes_where_all_of_it_would_not_be_enough() -> None:
    decision = decided(unwanted("gone"), wanted("low"), on=room(21))
    assert decision.going == ()
    assert decision.missing == Amount(1)
    assert {each.hold for each in decision.staying} == {Hold.IN_VAIN}


def test_nothing_goes_that_the_others_make_unneeded() -> None:
    """A small one first, then one that is enough by itself."""
    decision = decided(unwanted("small", 1), wanted("large", 100), on=room(50))
    assert going(decision) == [("large", Rule.LOWER_PRIORITY)]
    assert hold(decision, "small") is Hold.NOT_NEEDED


def test_content_that_is_wanted_never_drives_out_its_equal() -> None:
    decision = decided(wanted("equal", priority=5), wanted("above", priority=6), on=room(1))
    assert decision.going == ()
    assert why(decision, "equal") == "its priority 5 is not lower than 5"
    assert hold(decision, "above") is Hold.PRIORITY


def test_a_pinned_model_stays_and_its_old_revisions_don_t() -> None:
    pinned = Candidate(
        "p", (Revision("r1", {"o1": 10}, Role.OLD), Revision("r2", {"o2": 10})), pinned=True
    )
    assert going(decided(pinned, on=room(10))) == [("p", Rule.OLD_REVISION)]
    decision = decided(pinned, on=room(11))
    assert decision.going == ()
    assert {each.hold for each in decision.staying} == {Hold.IN_VAIN, Hold.PINNED}


def test_what_is_in_use_stays_and_its_user_is_named() -> None:
    uses = Uses(
        (
            User("pod", "default/llama-0", "low", how="mounts it"),
            User("lease", "bench-7", "low", how="holds it"),
        )
    )
    decision = decided(wanted("low"), wanted("other"), on=room(10), uses=uses)
    assert going(decision) == [("other", Rule.LOWER_PRIORITY)]
    assert why(decision, "low") == "pod default/llama-0 mounts it, and 1 more"


def test_one_revision_in_use_keeps_that_one_and_the_model_as_a_whole() -> None:
    uses = Uses((User("pod", "a/b", "m", frozenset({"r1"})),))
    two = Candidate("m", (Revision("r1", {"1": 10}, Role.OLD), Revision("r2", {"2": 10})))
    assert decided(two, on=room(10), uses=uses).going == ()
    three = Candidate("m", (*two.revisions, Revision("r0", {"0": 10}, Role.OLD)))
    decision = decided(three, on=room(10), uses=uses)
    assert [each.snapshots for each in decision.going] == [("r0",)]


def test_nothing_goes_while_use_is_not_known() -> None:
    uses = Uses(unknown="the API server does not answer")
    for occasion in (room(1), GraceOver(), Above(Amount(1))):
        decision = decided(unwanted("gone"), wanted("low"), on=occasion, uses=uses)
        assert decision.going == ()
        assert hold(decision, "gone") is Hold.USE_UNKNOWN
        assert why(decision, "gone").endswith("the API server does not answer")


@pytest.mark.parametrize(
    ("since", "grace", "expected"),
    [
        (NOW - GRACE + 1, GRACE, Hold.GRACE),
        (NOW - GRACE, GRACE, None),
        (0.0, None, Hold.GRACE),
        (None, GRACE, Hold.DOUBT),
    ],
)
def test_what_nothing_wants_is_kept_for_its_time(
    since: float | None, grace: float | None, expected: Hold | None
) -> None:
    decision = decided(unwanted("gone", since=since), on=room(1), grace=grace)
    assert bool(decision.going) == (expected is None)
    assert expected is None or hold(decision, "gone") is expected


def test_when_its_time_is_over_only_that_goes() -> None:
    old = Candidate("old", (Revision("r1", {"o1": 10}, Role.OLD), Revision("r2", {"o2": 10})))
    decision = decided(unwanted("gone"), unwanted("late", since=NOW), old, on=GraceOver())
    assert going(decision) == [("gone", Rule.UNWANTED)]
    assert hold(decision, "late") is Hold.GRACE
    assert hold(decision, "old") is Hold.WANTED


def test_above_the_watermark_goes_what_nothing_needs_as_far_as_it_reaches() -> None:
    old = Candidate("old", (Revision("r1", {"o1": 10}, Role.OLD), Revision("r2", {"o2": 10})))
    everything = (unwanted("gone"), old, wanted("low", priority=-5))
    assert going(decided(*everything, on=Above(Amount(5)))) == [("gone", Rule.UNWANTED)]
    decision = decided(*everything, on=Above(Amount(50)))
    assert going(decision) == [("gone", Rule.UNWANTED), ("old", Rule.OLD_REVISION)]
    assert decision.missing == Amount(30)
    assert hold(decision, "low") is Hold.WANTED


def test_shared_content_is_freed_with_the_last_that_has_it() -> None:
    a = Candidate("a", (Revision("r1", {"shared": 90, "a": 10}),))
    b = Candidate("b", (Revision("r1", {"shared": 90, "b": 10}),), priority=1)
    one = decided(a, b, on=room(10))
    assert going(one) == [("a", Rule.LOWER_PRIORITY)]
    both = decided(a, b, on=room(11))
    assert [each.frees.bytes for each in both.going] == [10, 100]
    kept = Candidate("c", (Revision("r1", {"shared": 90}),), priority=9)
    assert decided(a, b, kept, on=room(21)).missing == Amount(1)


def test_what_the_newcomer_shares_frees_nothing_for_it() -> None:
    a = Candidate("a", (Revision("r1", {"shared": 90, "a": 10}),))
    decision = decided(a, on=Room("new", 5, Amount(50), frozenset({"shared"})))
    assert decision.missing == Amount(40)


def test_a_model_goes_whole_so_that_no_old_revision_is_shown_in_its_place() -> None:
    m = Candidate("m", (Revision("r1", {"1": 10}, Role.OLD), Revision("r2", {"2": 100})))
    (gone,) = decided(m, on=room(60)).going
    assert (gone.snapshots, gone.rule, gone.whole) == (("r1", "r2"), Rule.LOWER_PRIORITY, True)
    assert gone.frees == Amount(110, 2)


def test_the_last_revision_of_another_source_is_spared_for_others_and_not_for_its_model() -> None:
    last = Candidate("m", (Revision("r1", {"1": 10}, Role.LAST),), priority=7)
    assert decided(last, on=room(10, priority=7)).going == ()
    assert decided(last, on=Above(Amount(10))).going == ()
    assert going(decided(last, on=room(10, 7, "m"))) == [("m", Rule.OLD_REVISION)]
    present = Candidate("m", (Revision("r1", {"1": 10}),), priority=7)
    decision = decided(present, on=room(10, 7, "m"))
    assert why(decision, "m") == "it stays until its new revision is here"


def test_inodes_are_made_room_for_as_bytes_are() -> None:
    many = Candidate("many", (Revision("r1", {str(each): 1 for each in range(100)}),))
    few = wanted("few", 1000, used_at=-5.0)
    decision = decided(many, few, on=Room("new", 5, Amount(0, 50)))
    assert going(decision) == [("many", Rule.LOWER_PRIORITY)]
