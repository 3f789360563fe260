"""What is on the disk beside whole models: which of it goes, when, and what keeps the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.planning.candidates import Candidate, Revision, Role
from modelcache.planning.evicting import Above, Amount, Decision, GraceOver, Occasion, Room, decide
from modelcache.planning.leftovers import YOUNG_SECONDS, Asked, Leftover, leftovers
from modelcache.planning.rules import Hold, Rule
from modelcache.planning.using import User, Uses
from modelcache.store import Kind, Remnant

NOW = 1_000_000.0
LONG_AGO = NOW - 2 * YOUNG_SECONDS


def partial(*models: str, key: str = "sha256-k", at: float = LONG_AGO) -> Remnant:
    name = f"partial/{key}"
    return Remnant(Kind.PARTIAL, name, frozenset(models), {name: 10}, at)


def unfinished(model: str, snapshot: str = "s1", at: float = LONG_AGO) -> Remnant:
    return Remnant(Kind.UNFINISHED, snapshot, frozenset({model}), {f"of-{model}": 10}, at)


def bad(model: str, *, healed: bool = False, at: float = LONG_AGO) -> Remnant:
    name = f"quarantine/{model}"
    return Remnant(Kind.QUARANTINED, name, frozenset({model}), {name: 10}, at, healed)


def judged(remnant: Remnant, asked: Asked = Asked(), now: float = NOW) -> Leftover:  # noqa: B008
    (found,) = leftovers([remnant], asked, now)
    return found


def held(remnant: Remnant, asked: Asked = Asked(), now: float = NOW) -> Hold | None:  # noqa: B008
    found = judged(remnant, asked, now).held
    return found[0] if found else None


@pytest.mark.parametrize("remnant", [partial("m"), unfinished("m"), bad("m")])
def test_what_nothing_wants_may_go(remnant: Remnant) -> None:
    assert held(remnant) is None
    assert held(remnant, Asked({"other": None})) is None


@pytest.mark.parametrize("remnant", [partial("m"), unfinished("m")])
def test_what_is_young_stays_for_a_while(remnant: Remnant) -> None:
    young = replace(remnant, changed_at=NOW - YOUNG_SECONDS + 1)
    assert held(young) is Hold.GRACE
    assert held(young, now=NOW + 2) is None
    assert held(replace(remnant, changed_at=NOW + 2 * YOUNG_SECONDS)) is None, "a clock set back"


@pytest.mark.parametrize("remnant", [partial("m"), unfinished("m"), bad("m")])
def test_what_is_being_fetched_stays(remnant: Remnant) -> None:
    assert held(remnant, Asked(fetching=frozenset({"m"}))) is Hold.FETCHING


@pytest.mark.parametrize("remnant", [partial("m"), unfinished("m")])
def test_nothing_goes_while_it_is_not_known_what_a_wanted_model_needs(remnant: Remnant) -> None:
    assert held(remnant, Asked({"m": None})) is Hold.WANTED
    assert held(remnant, Asked(in_doubt=lambda name: "it may be" * (name == "m"))) is Hold.DOUBT


def test_what_a_wanted_model_needs_stays_and_the_rest_of_it_goes() -> None:
    keys, digests = {"m": frozenset({"sha256-k"})}, {"x": frozenset({"of-o"})}
    asked = Asked({"m": "s2"}, keys, digests)
    assert held(partial("m"), asked) is Hold.WANTED
    assert held(partial("m", key="sha256-old"), asked) is None
    assert held(unfinished("m", "s2"), asked) is Hold.WANTED
    assert held(unfinished("m", "s1"), asked) is None
    assert held(unfinished("o", "s1"), asked) is Hold.WANTED, "a fetch counts on its files"


def test_what_one_of_its_models_wants_stays() -> None:
    assert held(partial("m", "o"), Asked({"o": None})) is Hold.WANTED
    assert held(partial("m", "o"), Asked({"o": "s", "m": "s"})) is None


def test_what_nobody_signed_stays() -> None:
    assert held(partial()) is Hold.DOUBT


@pytest.mark.parametrize(
    ("asked", "used"),
    [
        (Asked({"m": "s"}), True),
        (Asked(in_doubt=lambda _: "it may be"), True),
        (Asked({"o": "s"}), False),
    ],
)
def test_what_went_bad_is_of_use_until_it_is_healed(asked: Asked, used: bool) -> None:
    assert judged(bad("m"), asked).is_used == used
    assert not judged(bad("m", healed=True), asked).is_used


# What becomes of them.

GONE = Candidate(
    "gone", (Revision("r1", {"g": 10}, Role.LAST),), wanted=False, unwanted_since=LONG_AGO
)
OLD = Candidate("old", (Revision("r1", {"o1": 10}, Role.OLD), Revision("r2", {"o2": 10})))
LOW = Candidate("low", (Revision("r1", {"l": 10}),))
HEALING = Asked({"m": "s"})


def decided(
    occasion: Occasion,
    *remnants: Remnant,
    asked: Asked = Asked(),  # noqa: B008 - it never changes
    uses: Uses = Uses(),  # noqa: B008 - it never changes
) -> Decision:
    left = leftovers(remnants, asked, NOW)
    return decide([LOW, OLD, GONE], uses, occasion, now=NOW, grace=1.0, leftovers=left)


def going(decision: Decision) -> list[tuple[Rule, str]]:
    return [(each.rule, each.model) for each in decision.going]


def room(size: int, model: str = "new") -> Room:
    return Room(model, 5, Amount(size))


def test_they_go_first_the_oldest_first() -> None:
    remnants = [bad("b"), partial("p"), unfinished("u", at=LONG_AGO - 1), bad("a", at=1.0)]
    order = [
        (Rule.LEFTOVER, "u"),
        (Rule.LEFTOVER, "p"),
        (Rule.QUARANTINE, "a"),
        (Rule.QUARANTINE, "b"),
        (Rule.UNWANTED, "gone"),
        (Rule.OLD_REVISION, "old"),
        (Rule.LOWER_PRIORITY, "low"),
    ]
    for count in range(1, 8):
        decision = decided(room(10 * count), *remnants)
        assert going(decision) == order[:count]
        assert decision.frees == Amount(10 * count, count)


def test_what_a_model_is_healed_from_goes_after_all_that_nothing_needs() -> None:
    decision = decided(room(30), bad("m"), asked=HEALING)
    assert [rule for rule, _ in going(decision)] == [
        Rule.UNWANTED,
        Rule.OLD_REVISION,
        Rule.QUARANTINE,
    ]
    assert (Rule.QUARANTINE, "m") in going(decided(room(30, "m"), bad("m"), asked=HEALING))


def test_above_the_watermark_what_is_of_use_stays() -> None:
    decision = decided(Above(Amount(1000)), bad("m"), partial("p"), asked=HEALING)
    assert going(decision) == [
        (Rule.LEFTOVER, "p"),
        (Rule.UNWANTED, "gone"),
        (Rule.OLD_REVISION, "old"),
    ]
    (kept,) = (each for each in decision.staying if each.model == "m")
    assert kept.hold is Hold.WANTED


def test_none_goes_because_a_grace_is_over() -> None:
    assert going(decided(GraceOver(), partial("p"))) == [(Rule.UNWANTED, "gone")]


def test_a_view_that_a_pod_has_mounted_stays_and_partial_files_have_no_users() -> None:
    uses = Uses((User("pod", "default/a", "u", how="mounts it"),), unknown="nobody answers")
    decision = decided(room(10), unfinished("u"), partial("p"), uses=uses)
    assert going(decision) == [(Rule.LEFTOVER, "p")]
    (kept,) = (each for each in decision.staying if each.model == "u")
    assert kept.hold is Hold.IN_USE


def test_nobody_is_told_that_a_model_s_own_files_hold_its_room() -> None:
    decision = decided(room(1000, "m"), partial("m"), asked=HEALING)
    assert decision.missing
    decision = decided(room(1000, "m"), partial("m"), asked=Asked({"m": None}))
    assert "m" not in {each.model for each in decision.staying}


def partial_of(model: str) -> Remnant:
    return partial(model, key=f"sha256-{model}")


KINDS = [partial_of, unfinished, bad]
MADE = st.frozensets(st.sampled_from([(make, name) for make in KINDS for name in "abc"]))


@given(
    MADE,
    st.dictionaries(st.sampled_from("abc"), st.sampled_from([None, "s1", "s2"])),
    st.frozensets(st.sampled_from("abc")),
    st.integers(1, 100),
    st.booleans(),
)
def test_what_is_of_use_never_goes_for_nothing_and_what_isn_t_goes_before_models(
    made: frozenset[tuple[Callable[..., Remnant], str]],
    snapshots: dict[str, str | None],
    fetching: frozenset[str],
    size: int,
    is_room: bool,
) -> None:
    remnants = [make(name) for make, name in made]
    asked = Asked(snapshots, fetching=fetching)
    occasion = room(size) if is_room else Above(Amount(size))
    decision = decided(occasion, *remnants, asked=asked)
    left = leftovers(remnants, asked, NOW)
    free = {(each.model, each.name) for each in left if each.held is None and not each.is_used}
    gone = [each for each in decision.going if not each.is_model]
    for each in gone:
        assert each.model not in fetching
        if each.rule is Rule.LEFTOVER:
            assert (each.model, *each.snapshots) in free
            assert snapshots.get(each.model, "none") is not None
        elif (each.model, *each.snapshots) not in free:
            assert isinstance(occasion, Room)
    if any(each.is_model for each in decision.going):
        assert free <= {(each.model, *each.snapshots) for each in gone}, "a model goes before"
