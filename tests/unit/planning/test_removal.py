"""What nothing wants any more, and fetches that need a permit."""

from __future__ import annotations

from collections.abc import Container, Mapping

from modelcache.planning.planner import (
    Fetch,
    Held,
    Limits,
    Plan,
    Remove,
    Resolve,
    Running,
    Stop,
    Withdraw,
    plan,
)
from modelcache.planning.removing import Removal
from tests.unit.planning.samples import found, held, model, source_of

M = model()


def unwanted(
    *snapshots: Held,
    now: float = 1000.0,
    kept: Container[str] = (),
    since: float = 400.0,
    running: Running | None = None,
) -> Plan:
    removal = Removal(600.0, {"m": since}, kept)
    under_way = {"m": running} if running else {}
    return plan({}, {"m": snapshots}, {}, under_way, now, removal=removal)


def test_what_nothing_wants_is_removed_in_its_time() -> None:
    assert unwanted(held(M), now=999.0) == Plan(wake_at=1000.0)
    assert unwanted(held(M), now=1000.0).actions == (Remove("m"),)


def test_what_is_used_or_labelled_stays() -> None:
    assert unwanted(held(M), kept={"m"}).actions == ()
    assert unwanted(held(M), kept={"other"}).actions == (Remove("m"),)


def test_a_fetch_is_stopped_before_anything_is_removed() -> None:
    running = Running(Fetch, source_of(M))
    assert unwanted(held(M), running=running).actions == (Stop("m"),)


def test_what_is_wanted_or_was_not_unwanted_long_enough_to_be_noted_stays() -> None:
    removal = Removal(0.0, {"m": 0.0})
    assert plan({"m": M}, {"m": [held(M)]}, {}, {}, 1000.0, removal=removal).actions == ()
    assert plan({}, {"m": [held(M)]}, {}, {}, 1000.0, removal=Removal(0.0, {})).actions == ()


def test_without_a_rule_nothing_is_removed() -> None:
    assert plan({}, {"m": [held(M)]}, {}, {}, 10.0**9) == Plan()


def test_what_is_damaged_and_unwanted_is_no_longer_shown_before_it_goes() -> None:
    damaged = held(M, whole=False)
    assert unwanted(damaged).actions == (Withdraw("m", damaged.snapshot), Remove("m"))


def test_a_fetch_without_a_permit_waits_and_says_so() -> None:
    models = {name: model(name=name) for name in ("a", "b")}
    trials = {name: found(each) for name, each in models.items()}
    waiting = plan(models, {}, trials, {}, 1000.0, permitted=frozenset({"b"}))
    assert waiting.actions == (Fetch("b"),)
    assert waiting.waiting == ("a",)
    assert plan(models, {}, trials, {}, 1000.0).actions == (Fetch("a"), Fetch("b"))


def permits(
    priorities: Mapping[str, int], permitted: str, fetching: int = 2
) -> tuple[list[str], str, int]:
    """What begins, what waits, and how many of that may begin."""
    models = {name: model(name=name, priority=each) for name, each in priorities.items()}
    trials = {name: found(each) for name, each in models.items()}
    limits = Limits(fetching=fetching)
    planned = plan(models, {}, trials, {}, 1000.0, limits, permitted=frozenset(permitted))
    begin = [action.name for action in planned.actions if isinstance(action, Fetch)]
    return begin, "".join(planned.waiting), planned.room


def test_who_waits_for_a_permit_holds_up_none_of_its_own_priority() -> None:
    equals = dict.fromkeys("abcde", 0)
    assert permits(equals, "") == ([], "abcde", 2)
    assert permits(equals, "de") == (["d", "e"], "", 0)
    assert permits(equals, "d") == (["d"], "abce", 1)
    assert permits(equals, "cde") == (["c", "d"], "", 0)


def test_who_waits_for_a_permit_keeps_its_place_from_lower_priorities() -> None:
    assert permits({"a": 1, "b": 0, "c": 0}, "bc") == (["b"], "a", 1)
    assert permits({"a": 1, "b": 1, "c": 0}, "c") == ([], "ab", 2)
    assert permits({"a": 1, "b": 1, "c": 0}, "ac") == (["a"], "b", 1)


def test_so_many_are_asked_for_at_most() -> None:
    names = [f"m{number}" for number in range(100)]
    _, waiting, room = permits(dict.fromkeys(names, 0), "")
    assert (waiting.count("m"), room) == (64, 2)


def test_asking_an_origin_needs_no_permit() -> None:
    assert plan({"m": M}, {}, {}, {}, 1000.0, permitted=frozenset()).actions == (Resolve("m"),)
