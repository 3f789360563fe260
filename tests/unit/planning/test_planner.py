from __future__ import annotations

from modelcache.api import CachedModel
from modelcache.errors import NotFound
from modelcache.planning.planner import (
    Action,
    Fetch,
    Held,
    Limits,
    Plan,
    Resolve,
    Running,
    Show,
    Stop,
    Withdraw,
    plan,
)
from modelcache.planning.trials import Trial
from tests.unit.planning.samples import NEW, OLD, found, held, model, resolved, source_of

M = model()


def planned(
    wanted: CachedModel | None = M,
    *snapshots: Held,
    trial: Trial | None = None,
    running: Running | None = None,
    now: float = 1000.0,
) -> Plan:
    return plan(
        {"m": wanted} if wanted else {},
        {"m": snapshots} if snapshots else {},
        {"m": trial} if trial else {},
        {"m": running} if running else {},
        now,
    )


def actions(*args: Held | CachedModel | None, **given: object) -> tuple[Action, ...]:
    return planned(*args, **given).actions  # type: ignore[arg-type]


def test_what_is_wanted_and_not_there_is_resolved_and_then_fetched() -> None:
    assert actions(M) == (Resolve("m"),)
    assert actions(M, trial=found(M)) == (Fetch("m"),)


def test_nothing_is_to_do_where_all_is_ready_and_nobody_polls() -> None:
    assert planned(M, held(M)) == Plan()
    assert planned(M, held(M), trial=found(M).succeeded(), now=10.0**9) == Plan()


def test_nothing_is_to_do_while_something_runs() -> None:
    assert actions(M, running=Running(Resolve, source_of(M))) == ()
    assert actions(M, trial=found(M), running=Running(Fetch, source_of(M))) == ()


def test_a_failure_waits_for_its_time() -> None:
    failed = Trial(source_of(M)).failed(NotFound("gone"), 1000.0, lambda *_, **__: 60.0)
    assert planned(M, trial=failed, now=1059.0) == Plan((), 1060.0)
    assert actions(M, trial=failed, now=1060.0) == (Resolve("m"),)


def test_another_source_begins_anew_and_stops_what_runs_for_the_old_one() -> None:
    other = model(uri="hf://org/other")
    failed = found(M).failed(NotFound("gone"), 1000.0, lambda *_, **__: 60.0)
    assert actions(other, trial=failed) == (Resolve("m"),)
    assert actions(other, held(M), trial=found(M)) == (Resolve("m"),)
    assert actions(other, running=Running(Fetch, source_of(M))) == (Stop("m"),)


def test_another_selection_is_another_source() -> None:
    wider = model(include=("*.json",))
    assert actions(wider, held(M)) == (Resolve("m"),)


def test_what_nobody_wants_is_stopped_and_left_alone() -> None:
    assert actions(None, held(M)) == ()
    assert actions(None, running=Running(Fetch, source_of(M))) == (Stop("m"),)


def test_a_snapshot_that_is_there_is_shown_without_asking() -> None:
    assert actions(M, held(M, shown=False)) == (Show("m", OLD),)


def test_what_is_not_whole_is_withdrawn_and_brought_again() -> None:
    assert actions(M, held(M, whole=False)) == (Withdraw("m", OLD), Resolve("m"))
    assert actions(None, held(M, whole=False)) == (Withdraw("m", OLD),)


def test_polling_asks_again_after_the_interval() -> None:
    polled = model(poll="2m")
    assert planned(polled, held(polled, at=1000.0), now=1119.0) == Plan((), 1120.0)
    assert actions(polled, held(polled, at=1000.0), now=1120.0) == (Resolve("m"),)
    asked = found(polled, at=1120.0).succeeded()
    assert planned(polled, held(polled, at=1000.0), trial=asked, now=1121.0) == Plan((), 1240.0)


def test_polling_fetches_the_newer_revision_beside_the_shown_one() -> None:
    polled = model(poll="1m")
    newer = found(polled, NEW, at=1120.0)
    later = newer.failed(NotFound("gone"), 1120.0, lambda *_, **__: 30.0)
    assert actions(polled, held(polled), trial=newer, now=1120.0) == (Fetch("m"),)
    assert planned(polled, held(polled), trial=later, now=1121.0) == Plan((), 1150.0)


def test_an_origin_that_goes_back_is_followed() -> None:
    polled = model(poll="1m")
    both = (held(polled, OLD, at=1.0, shown=False), held(polled, NEW, at=2.0))
    back = found(polled, OLD, at=1000.0).succeeded()
    assert actions(polled, *both, trial=back, now=1001.0) == (Show("m", OLD),)


def test_after_a_restart_the_shown_snapshot_stays_though_another_is_newer() -> None:
    assert actions(M, held(M, OLD, at=1.0), held(M, NEW, at=2.0, shown=False)) == ()


def test_a_snapshot_of_another_source_is_not_shown() -> None:
    other = model(uri="hf://org/other")
    assert actions(M, held(other, shown=False)) == (Resolve("m"),)


def test_higher_priority_first_and_small_before_large() -> None:
    models = [model("a"), model("b"), model("c", priority=5), model("d", priority=5)]
    sizes = {"a": 9, "b": 1, "c": 9, "d": 1}
    trials = {m.name: found(m, size=sizes[m.name]) for m in models}
    wanted = {m.name: m for m in models}
    assert plan(wanted, {}, trials, {}, 0.0).actions == tuple(map(Fetch, "dcba"))
    assert plan(wanted, {}, {}, {}, 0.0).actions == tuple(map(Resolve, "cdab"))


def test_limits_are_kept_and_what_is_stuck_does_not_count() -> None:
    wanted = {name: model(name) for name in "abcdefgh"}
    trials = {name: found(m) for name, m in wanted.items()}
    limits = Limits(resolving=1, fetching=2, patience=2)

    def begun(*stuck: bool) -> int:
        running = {
            name: Running(Fetch, source_of(wanted[name]), s)
            for name, s in zip("abcdefgh", stuck, strict=False)
        }
        return len(plan(wanted, {}, trials, running, 0.0, limits).actions)

    assert begun() == 2
    assert begun(False) == 1
    assert begun(False, False) == 0
    assert begun(False, True) == 1
    assert begun(True, True) == 2
    assert begun(True, True, True) == 1
    assert begun(True, True, True, True) == 0  # twice the limit in all


def test_sizes_come_from_what_was_resolved() -> None:
    assert found(M, size=7).resolved == resolved(size=7)
