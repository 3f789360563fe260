"""What holds of every plan, and that plans that are carried out arrive."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.api import CachedModel
from modelcache.errors import NotFound, OriginUnavailable
from modelcache.planning.planner import (
    Fetch,
    Held,
    Limits,
    Resolve,
    Running,
    Show,
    Stop,
    Withdraw,
    plan,
)
from modelcache.planning.trials import Trial
from modelcache.transfer import delay
from tests.unit.planning.samples import NEW, OLD, found, held, model, resolved, source_of

Value = TypeVar("Value")

NAMES = ("a", "b", "c", "d", "e")
URIS = ("hf://org/one", "hf://org/two")

models = st.builds(
    model,
    uri=st.sampled_from(URIS),
    priority=st.integers(0, 2),
    poll=st.sampled_from([None, "1m"]),
)
snapshots = st.lists(
    st.builds(
        held,
        models,
        st.sampled_from([OLD, NEW]),
        at=st.floats(0, 100),
        whole=st.booleans(),
        shown=st.booleans(),
    ),
    max_size=2,
    unique_by=lambda h: h.snapshot,
)
trials = st.builds(
    lambda wanted, size, fail, at: (
        found(wanted, size=size, at=at).failed(NotFound("x"), at, lambda *_, **__: 30.0)
        if fail
        else found(wanted, size=size, at=at)
    ),
    models,
    st.integers(0, 3),
    st.booleans(),
    st.floats(0, 100),
)
runnings = st.builds(
    lambda kind, wanted, stuck: Running(kind, source_of(wanted), stuck),
    st.sampled_from([Resolve, Fetch]),
    models,
    st.booleans(),
)


def by_name(values: st.SearchStrategy[Value]) -> st.SearchStrategy[dict[str, Value]]:
    return st.dictionaries(st.sampled_from(NAMES), values)


@st.composite
def states(draw: st.DrawFn) -> tuple[dict, dict, dict, dict, float, Limits]:  # type: ignore[type-arg]
    wanted = {
        name: m.model_copy(update={"metadata": m.metadata.model_copy(update={"name": name})})
        for name, m in draw(by_name(models)).items()
    }
    return (
        wanted,
        draw(by_name(snapshots)),
        draw(by_name(trials)),
        draw(by_name(runnings)),
        draw(st.floats(0, 1000)),
        Limits(resolving=draw(st.integers(1, 3)), fetching=draw(st.integers(1, 3))),
    )


@given(states())
def test_what_holds_of_every_plan(state: tuple) -> None:  # type: ignore[type-arg]
    wanted, there, tried, running, now, limits = state
    planned = plan(*state)
    assert plan(*state) == planned
    begun = [a for a in planned.actions if isinstance(a, Fetch | Resolve)]
    names = [action.name for action in begun]
    assert len(set(names)) == len(names), "two things for one model"
    assert not set(names) & set(running), "a second thing for one model"
    assert set(names) <= set(wanted), "something nobody wants"
    for action in begun:
        if isinstance(action, Fetch):
            trial = tried[action.name]
            assert trial.resolved is not None
            assert trial.source == source_of(wanted[action.name])
    for kind, most in ((Fetch, limits.fetching), (Resolve, limits.resolving)):
        new = [a.name for a in begun if isinstance(a, kind)]
        busy = [what for what in running.values() if what.kind is kind]
        moving = [what for what in busy if not what.stuck]
        assert not new or len(new) + len(moving) <= most
        assert not new or len(new) + len(busy) <= most * limits.patience
        keys = [
            (
                -wanted[n].spec.priority,
                tried[n].resolved.size if kind is Fetch and tried[n].resolved else 0,
                n,
            )
            for n in new
        ]
        assert keys == sorted(keys)
    for each in planned.actions:
        match each:
            case Stop(name):
                assert name in running
                assert name not in wanted or running[name].source != source_of(wanted[name])
            case Withdraw(name, snapshot):
                assert any(h.snapshot == snapshot and not h.whole for h in there[name])
            case Show(name, snapshot):
                mine = next(h for h in there[name] if h.snapshot == snapshot)
                assert mine.whole
                assert not mine.shown
                assert mine.source == source_of(wanted[name])
            case _:
                pass
    assert planned.wake_at is None or planned.wake_at > now


class World:
    """What carries plans out, by chance well or badly."""

    def __init__(self, seed: int, wanted: dict[str, CachedModel]) -> None:
        self.chance = random.Random(seed)
        self.wanted = wanted
        self.held: dict[str, list[Held]] = {}
        self.trials: dict[str, Trial] = {}
        self.running: dict[str, Running] = {}
        self.now = 0.0

    def step(self) -> bool:
        """One plan carried out, and some of what runs ended; whether there is nothing to do."""
        planned = plan(self.wanted, self.held, self.trials, self.running, self.now)
        at_rest = not planned.actions and not self.running and planned.wake_at is None
        for action in planned.actions:
            self._begin(action)
        for name in list(self.running):
            if self.chance.random() < 0.7:
                self._end(name)
        self.now += 5.0
        if planned.wake_at is not None and not self.running:
            self.now = max(self.now, planned.wake_at)
        return at_rest

    def _begin(self, action: object) -> None:
        match action:
            case Resolve(name) | Fetch(name):
                assert name not in self.running
                self.running[name] = Running(type(action), source_of(self.wanted[name]))
            case Stop(name):
                del self.running[name]
            case Show(name, snapshot):
                self.held[name] = [
                    replace(h, shown=h.snapshot == snapshot) for h in self.held[name]
                ]
            case Withdraw(name, snapshot):
                self.held[name] = [h for h in self.held[name] if h.snapshot != snapshot]
            case _:
                raise AssertionError(action)

    def _end(self, name: str) -> None:
        what = self.running.pop(name)
        trial = self.trials.get(name)
        if trial is None or trial.source != what.source:
            trial = Trial(what.source)
        if self.chance.random() < 0.4:
            self.trials[name] = trial.failed(OriginUnavailable("x"), self.now, delay)
        elif what.kind is Resolve:
            self.trials[name] = trial.found(resolved(what.source, 1, self.now))
        else:
            here = [replace(h, shown=False) for h in self.held.get(name, [])]
            shown = self.chance.random() < 0.9  # a kill comes between commit and `current`
            self.held[name] = [*here, Held(what.source, what.source, self.now, shown=shown)]
            self.trials[name] = trial.succeeded()


@given(st.integers(), st.dictionaries(st.sampled_from(NAMES), st.sampled_from(URIS), min_size=1))
@settings(max_examples=50)
def test_in_a_world_of_chance_everything_is_there_at_last(seed: int, uris: dict[str, str]) -> None:
    world = World(seed, {name: model(name, uri=uri) for name, uri in uris.items()})
    for _ in range(40):
        world.step()
    name = min(uris)
    world.wanted[name] = model(name, uri="hf://org/changed")
    for _ in range(400):
        if world.step():
            break
    else:
        raise AssertionError("it never comes to rest")
    for name, wanted in world.wanted.items():
        shown = [h for h in world.held[name] if h.shown]
        assert [h.source for h in shown] == [source_of(wanted)]
