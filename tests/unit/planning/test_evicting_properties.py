"""What holds of every decision."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.planning.candidates import Candidate, Revision, Role
from modelcache.planning.evicting import (
    Above,
    Amount,
    Decision,
    Going,
    GraceOver,
    Hold,
    Occasion,
    Room,
    Rule,
    decide,
)
from modelcache.planning.using import User, Uses

NAMES = ("a", "b", "c", "d", "e", "f")
SNAPSHOTS = ("r1", "r2", "r3")
DIGESTS = tuple("pqrstuvwxyz")
SIZES = {digest: 2**number for number, digest in enumerate(DIGESTS)}
NOW, GRACE = 1000.0, 100.0
RULES = [Rule.UNWANTED, Rule.OLD_REVISION, Rule.LOWER_PRIORITY]
"""Of models, in their order."""

blobs = st.sets(st.sampled_from(DIGESTS), min_size=1, max_size=4).map(
    lambda digests: {digest: SIZES[digest] for digest in digests}
)


@st.composite
def models(draw: st.DrawFn, name: str) -> Candidate:
    there = draw(st.lists(st.sampled_from(SNAPSHOTS), min_size=1, unique=True))
    wanted = draw(st.booleans())
    last = draw(st.sampled_from([Role.PRESENT, Role.LAST])) if wanted else Role.LAST
    revisions = tuple(
        Revision(
            each,
            draw(blobs),
            last if number == 0 else Role.OLD,
            draw(st.floats(0, NOW, allow_nan=False)),
        )
        for number, each in enumerate(there)
    )
    return Candidate(
        name,
        revisions,
        wanted=wanted,
        unwanted_since=None if wanted else draw(st.sampled_from([0.0, 0.0, 850.0, 950.0, None])),
        priority=draw(st.integers(-1, 2)) if wanted else 0,
        pinned=wanted and draw(st.booleans()),
    )


@st.composite
def all_models(draw: st.DrawFn) -> tuple[Candidate, ...]:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=2, unique=True))
    return tuple(draw(models(name)) for name in names)


users = st.lists(
    st.builds(
        User,
        st.just("pod"),
        st.just("a/b"),
        st.one_of(st.sampled_from(NAMES), st.none()),
        st.one_of(st.none(), st.frozensets(st.sampled_from(SNAPSHOTS))),
    ),
    max_size=3,
)
uses = st.builds(Uses, users.map(tuple), st.sampled_from([None, None, None, "nobody answers"]))
amounts = st.one_of(st.integers(1, 40), st.integers(1, 600)).map(Amount)
rooms = st.builds(
    Room,
    st.sampled_from([*NAMES, "new"]),
    st.integers(-1, 3),
    amounts,
    st.frozensets(st.sampled_from(DIGESTS), max_size=2),
)
occasions = st.one_of(rooms, st.builds(Above, amounts), st.just(GraceOver()))
graces = st.sampled_from([GRACE, GRACE, None])
Case = tuple[tuple[Candidate, ...], Uses, Occasion, float | None]
cases = st.tuples(all_models(), uses, occasions, graces)


def decided(case: Case) -> Decision:
    candidates, used, occasion, grace = case
    return decide(candidates, used, occasion, now=NOW, grace=grace)


def pairs(going: Going) -> set[tuple[str, str]]:
    return {(going.model, each) for each in going.snapshots}


def freed(case: Case, gone: set[tuple[str, str]]) -> int:
    """Counted anew: the sizes of all content that nothing has any more."""
    candidates, _, occasion, _ = case
    left, went = set[str](), set[str]()
    for candidate in candidates:
        for revision in candidate.revisions:
            key = (candidate.model, revision.snapshot)
            (went if key in gone else left).update(revision.blobs)
    shared = occasion.shares if isinstance(occasion, Room) else frozenset()
    return sum(SIZES[digest] for digest in went - left - shared)


def all_going(decision: Decision) -> set[tuple[str, str]]:
    return {pair for going in decision.going for pair in pairs(going)}


@settings(max_examples=400)
@given(cases)
def test_what_is_used_or_may_be_stays(case: Case) -> None:
    _, used, _, _ = case
    for model, snapshot in all_going(decided(case)):
        assert used.may_go(model, snapshot)


@given(cases)
def test_what_is_wanted_goes_only_for_something_more_important(case: Case) -> None:
    candidates, _, occasion, grace = case
    by_name = {candidate.model: candidate for candidate in candidates}
    for going in decided(case).going:
        candidate = by_name[going.model]
        roles = {r.snapshot: r.role for r in candidate.revisions}
        mine = isinstance(occasion, Room) and occasion.model == going.model
        if not candidate.wanted:
            assert going.rule is Rule.UNWANTED
            assert grace is not None
            assert candidate.unwanted_since is not None
            assert candidate.unwanted_since + grace <= NOW
        elif going.rule is Rule.OLD_REVISION:
            assert not isinstance(occasion, GraceOver)
            for each in going.snapshots:
                assert roles[each] is Role.OLD or (roles[each] is Role.LAST and mine)
        else:
            assert going.rule is Rule.LOWER_PRIORITY
            assert isinstance(occasion, Room)
            assert not mine
            assert not candidate.pinned
            assert candidate.priority < occasion.priority
            assert set(going.snapshots) == roles.keys(), "nothing older takes its place"


@given(cases)
def test_each_snapshot_is_explained_once(case: Case) -> None:
    candidates, *_ = case
    decision = decided(case)
    gone = all_going(decision)
    stays = [(each.model, each.snapshot) for each in decision.staying]
    everything = {(c.model, r.snapshot) for c in candidates for r in c.revisions}
    assert len(stays) == len(set(stays))
    assert gone | set(stays) == everything
    assert not gone & set(stays)
    assert all(each.why for each in decision.going)
    assert all(each.why for each in decision.staying)


@given(cases)
def test_what_is_said_to_be_freed_is(case: Case) -> None:
    _, _, occasion, _ = case
    decision = decided(case)
    assert decision.frees.bytes == freed(case, all_going(decision))
    assert sum(each.frees.bytes for each in decision.going) == decision.frees.bytes
    if isinstance(occasion, Room):
        need = occasion.amount.bytes
        assert bool(decision.missing) == (not decision.going)
        assert decision.missing or decision.frees.bytes >= need
    if isinstance(occasion, Above):
        assert decision.missing.bytes == max(0, occasion.amount.bytes - decision.frees.bytes)


@given(cases)
def test_nothing_goes_in_vain(case: Case) -> None:
    _, _, occasion, _ = case
    decision = decided(case)
    if isinstance(occasion, GraceOver) or decision.missing:
        return
    for spared in decision.going:
        rest = {pair for g in decision.going if g is not spared for pair in pairs(g)}
        assert freed(case, rest) < occasion.amount.bytes


@given(cases)
def test_nothing_goes_where_all_that_comes_before_it_is_enough(case: Case) -> None:
    """The order: rules first, then priorities. What is spared is only what is not needed."""
    candidates, _, occasion, _ = case
    decision = decided(case)
    if isinstance(occasion, GraceOver) or not decision.going:
        return
    by_name = {candidate.model: candidate for candidate in candidates}

    def rank(going: Going) -> tuple[int, int]:
        low = going.rule is Rule.LOWER_PRIORITY
        return RULES.index(going.rule), by_name[going.model].priority if low else 0

    def rank_of(model: str, snapshot: str) -> tuple[int, int]:
        candidate = by_name[model]
        (role,) = (r.role for r in candidate.revisions if r.snapshot == snapshot)
        if not candidate.wanted:
            return 0, 0
        mine = isinstance(occasion, Room) and occasion.model == model
        if role is Role.OLD or (role is Role.LAST and mine):
            return 1, 0
        return 2, candidate.priority

    assert [*map(rank, decision.going)] == sorted(map(rank, decision.going))
    last = rank(decision.going[-1])
    spared = {(s.model, s.snapshot) for s in decision.staying if s.hold is Hold.NOT_NEEDED}
    before = {pair for pair in all_going(decision) | spared if rank_of(*pair) < last}
    assert freed(case, before) < occasion.amount.bytes


@given(cases)
def test_it_is_decided_alike_whatever_order_the_models_come_in(case: Case) -> None:
    candidates, used, occasion, grace = case
    back = decide(reversed(candidates), used, occasion, now=NOW, grace=grace)
    assert back.going == decided(case).going


@given(all_models(), uses, rooms)
def test_two_that_are_wanted_never_drive_out_each_other(
    candidates: tuple[Candidate, ...], used: Uses, room: Room
) -> None:
    """What went for another can't come back at its cost: its priority is lower."""
    decision = decide(candidates, used, room, now=NOW, grace=GRACE)
    by_name = {candidate.model: candidate for candidate in candidates}
    for going in decision.going:
        if going.whole:
            back = Room(going.model, by_name[going.model].priority, Amount(1))
            new = Candidate(room.model, (Revision("n", {"new": 10**6}),), priority=room.priority)
            answer = decide([new], Uses(), back, now=NOW, grace=GRACE)
            assert answer.going == ()
