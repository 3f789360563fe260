"""What fetches of wanted models have so far: for whom that goes, in which order, what keeps it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.planning.candidates import Candidate, Revision, Wish
from modelcache.planning.evicting import Above, Amount, Decision, Hold, Occasion, Room, Rule, decide
from modelcache.planning.leftovers import Asked, leftovers
from modelcache.planning.using import Uses
from modelcache.store import Kind, Remnant

NOW = 1_000_000.0


def partial(*models: str, at: float = NOW) -> Remnant:
    name = f"partial/sha256-{models[0]}"
    return Remnant(Kind.PARTIAL, name, frozenset(models), {name: 10}, at)


def whole(name: str, priority: int) -> Candidate:
    return Candidate(name, (Revision("r1", {f"of-{name}": 10}),), priority=priority)


def wish(priority: int, *, pinned: bool = False) -> Wish:
    return Wish("", priority, pinned)


def asked(wishes: Mapping[str, Wish], **promised: int) -> Asked:
    """All these are wanted, and it isn't known what they need; some are being fetched."""
    snapshots = dict.fromkeys(wishes)
    return Asked(snapshots, fetching=frozenset(promised), wishes=wishes, promised=promised)


def decided(
    occasion: Occasion, what: Asked, *remnants: Remnant, there: tuple[Candidate, ...] = ()
) -> Decision:
    left = leftovers(remnants, what, NOW)
    return decide(there, Uses(), occasion, now=NOW, grace=None, leftovers=left)


def room(size: int, priority: int = 5, model: str = "new") -> Room:
    return Room(model, priority, Amount(size))


def going(decision: Decision) -> list[str]:
    return [f"{each.model} {each.snapshots[0].partition('/')[0]}" for each in decision.going]


def test_the_least_important_goes_first_and_of_equals_what_is_not_whole() -> None:
    what = asked({"a": wish(1), "b": wish(2), "c": wish(2)}, c=0)
    remnants = [partial("a"), partial("b"), partial("c")]
    there = (whole("one", 1), whole("two", 2), whole("zero", 0))
    order = ["zero r1", "a partial", "one r1", "b partial", "c partial", "two r1"]
    for count in range(1, 7):
        decision = decided(room(10 * count), what, *remnants, there=there)
        assert going(decision) == order[:count]
        assert decision.frees == Amount(10 * count, count)
    assert decided(room(61), what, *remnants, there=there).going == ()


def test_a_fetch_gives_back_what_it_was_promised_before_it_loses_what_it_has() -> None:
    what = asked({"low": wish(1)}, low=7)
    assert going(decided(room(7), what, partial("low"))) == ["low fetch"]
    # What is worth most is spared first, and the promise isn't needed beside the rest.
    assert going(decided(room(8), what, partial("low"))) == ["low partial"]
    decision = decided(room(17), what, partial("low"))
    assert going(decision) == ["low fetch", "low partial"]
    assert {each.rule for each in decision.going} == {Rule.LOWER_PRIORITY_FETCH}
    assert not any(each.is_model or each.whole for each in decision.going)
    assert {each.why for each in decision.going} == {"being fetched, priority 1, lower than 5"}


LOW = {"low": wish(1)}


@pytest.mark.parametrize(
    ("what", "remnant", "hold"),
    [
        (asked({"low": wish(5)}), partial("low"), Hold.PRIORITY),
        (asked({"low": wish(5)}, low=3), partial("low"), Hold.PRIORITY),
        (asked({"low": wish(1, pinned=True)}), partial("low"), Hold.PINNED),
        (asked({**LOW, "top": wish(9)}), partial("low", "top"), Hold.PRIORITY),
        (
            Asked({"low": None}, wishes=LOW, fetching=frozenset({"low"})),
            partial("low"),
            Hold.FETCHING,
        ),
        (Asked({"low": None}, wishes=LOW, in_doubt=lambda _: "?"), partial("low", "x"), Hold.DOUBT),
        (Asked({"low": None}), partial("low"), Hold.WANTED),
    ],
    ids=["equal", "equal and fetched", "pinned", "shared", "another's", "doubt", "unknown"],
)
def test_it_stays(what: Asked, remnant: Remnant, hold: Hold) -> None:
    decision = decided(room(10), what, remnant)
    assert decision.going == ()
    assert [each.hold for each in decision.staying] == [hold]


def test_it_stays_where_nothing_comes_for_it() -> None:
    decision = decided(Above(Amount(10)), asked(LOW, low=3), partial("low"))
    assert decision.going == ()
    assert {each.hold for each in decision.staying} == {Hold.FETCHING}


@pytest.mark.parametrize(
    "what",
    [
        Asked({"low": None}, {"new": frozenset({"sha256-low"})}, wishes=LOW),
        Asked({"low": None}, {}, {"new": frozenset({"partial/sha256-low"})}, wishes=LOW),
    ],
)
def test_what_comes_goes_on_with_it_itself(what: Asked) -> None:
    decision = decided(room(10), what, partial("low"))
    assert (decision.going, decision.staying) == ((), ())


NAMES = ("a", "b", "c", "d")
WISHES = st.fixed_dictionaries(
    {name: st.builds(wish, st.integers(0, 3), pinned=st.booleans()) for name in NAMES}
)


@given(
    WISHES,
    st.frozensets(st.frozensets(st.sampled_from(NAMES), min_size=1, max_size=2)),
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9)),
    st.frozensets(st.sampled_from(NAMES)),
    st.integers(1, 60),
    st.integers(0, 4),
)
def test_only_what_is_less_important_goes_in_its_order_and_as_much_as_is_needed(
    wishes: dict[str, Wish],
    owners: frozenset[frozenset[str]],
    promised: dict[str, int],
    ready: frozenset[str],
    size: int,
    priority: int,
) -> None:
    # No two of one name, which would be one partial file.
    remnants = [partial(*sorted(each)) for each in {min(each): each for each in owners}.values()]
    there = tuple(whole(name, wishes[name].priority) for name in sorted(ready))
    decision = decided(room(size, priority), asked(wishes, **promised), *remnants, there=there)
    owner = {remnant.name: remnant.models for remnant in remnants}
    owner |= {f"fetch/{name}": frozenset({name}) for name in NAMES}
    ranks = []
    for each in decision.going:
        (name,) = each.snapshots
        models = {each.model} if each.whole else owner[name]
        assert each.whole or not any(wishes[model].pinned for model in models)
        most = max(wishes[model].priority for model in models)
        assert most < priority
        ranks.append((most, each.whole))
    assert ranks == sorted(ranks)
    assert bool(decision.missing) == (decision.going == ())
    for spared in decision.going:
        assert decision.frees.bytes - spared.frees.bytes < size
