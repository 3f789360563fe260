"""The plan: what is to be done now, as a pure function of what is wanted and what is there.

Level-triggered: called again it gives what is still missing, however it came to be missing. It
touches neither disk nor network nor clock.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from modelcache.api import CachedModel
from modelcache.planning.removing import Removal
from modelcache.planning.sources import source_digest
from modelcache.planning.trials import MOST_DELAY, Trial


@dataclass(frozen=True, slots=True)
class Held:
    """A committed snapshot in the store.

    Attributes:
        snapshot: its name on the disk.
        source: the digest of the source that it was fetched for.
        created_at: seconds since the epoch.
        whole: whether a look found every file with its size.
        shown: whether `current` and the hub view lead to it.
        unproven: bytes of it that came with a copied root, and are to be read back before it is
            ready.
    """

    snapshot: str
    source: str
    created_at: float
    whole: bool = True
    shown: bool = True
    unproven: int = 0


@dataclass(frozen=True, slots=True)
class Resolve:
    """Ask the origin what it holds."""

    name: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring what was resolved."""

    name: str


@dataclass(frozen=True, slots=True)
class Show:
    """Let the views lead to a snapshot that is there."""

    name: str
    snapshot: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Stop showing a snapshot that is not whole."""

    name: str
    snapshot: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete what the store has of a model that nothing wants any more."""

    name: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop what runs for a model: nobody wants that any more."""

    name: str


Action = Resolve | Fetch | Show | Withdraw | Remove | Stop


@dataclass(frozen=True, slots=True)
class Running:
    """Something that runs for a model.

    Attributes:
        kind: what it is.
        source: the digest of the source that it is for.
        stuck: whether its origin gives no answer at present.
    """

    kind: type[Resolve] | type[Fetch]
    source: str
    stuck: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may run at once.

    What is stuck doesn't count, so that origins that hang hold nobody up; with it, at most
    `patience` times as much runs.
    """

    resolving: int = 4
    fetching: int = 8
    patience: int = 4

    def left(self, kind: type[Resolve] | type[Fetch], running: Iterable[Running]) -> int:
        """How many more of a kind may begin."""
        most = self.fetching if kind is Fetch else self.resolving
        same = [what for what in running if what.kind is kind]
        moving = sum(1 for what in same if not what.stuck)
        return max(0, min(most - moving, most * self.patience - len(same)))


_MOST_WAITING: Final = 64
"""So many are asked for in one question (`cluster.permits`)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in the order in which they are to begin.

    Attributes:
        actions: what is to be done now.
        wake_at: when there may be more to do without anything happening before, in seconds since
            the epoch; None: never.
        waiting: models whose fetch would begin if they were permitted, by urgency.
        room: how many of them may begin.
    """

    actions: tuple[Action, ...] = ()
    wake_at: float | None = None
    waiting: tuple[str, ...] = ()
    room: int = 0


@dataclass(slots=True)
class _Need:
    """What one model needs."""

    actions: list[Action] = field(default_factory=list)
    resolve: bool = False
    fetch: bool = False
    wake_at: float | None = None


def plan(
    wanted: Mapping[str, CachedModel],
    held: Mapping[str, Sequence[Held]],
    trials: Mapping[str, Trial],
    running: Mapping[str, Running],
    now: float,
    limits: Limits | None = None,
    *,
    permitted: Container[str] | None = None,
    removal: Removal | None = None,
) -> Plan:
    """Decide what to do now.

    Args:
        wanted: the models that this node is to hold, by name.
        held: the snapshots that the store has, by model, oldest first.
        trials: what is remembered of tries, by model.
        running: what is under way, by model; at most one thing for each.
        now: seconds since the epoch.
        limits: how much may run at once.
        permitted: the models whose fetch may begin as far as others are concerned; None: all.
        removal: when what nothing wants any more is deleted; None: never.
    """
    limits = limits or Limits()
    actions: list[Action] = []
    wakes: list[float] = []
    resolves: list[CachedModel] = []
    fetches: list[tuple[CachedModel, int]] = []
    for name in sorted({*held, *running} - set(wanted)):
        actions += [Withdraw(name, h.snapshot) for h in held.get(name, ()) if not h.whole]
        if name in running:
            actions.append(Stop(name))
        elif removal is not None:
            is_due, due = removal.look(name, now)
            actions += [Remove(name)] if is_due else []
            wakes += [due] if due is not None else []
    for name, model in sorted(wanted.items()):
        need = _need(model, held.get(name, ()), trials.get(name), running.get(name), now)
        actions += need.actions
        if need.wake_at is not None:
            wakes.append(need.wake_at)
        if need.resolve:
            resolves.append(model)
        if need.fetch:
            trial = trials[name]
            assert trial.resolved is not None
            fetches.append((model, trial.resolved.size))
    resolves.sort(key=lambda model: (-model.spec.priority, model.name))
    fetches.sort(key=lambda pair: (-pair[0].spec.priority, pair[1], pair[0].name))
    free = limits.left(Fetch, running.values())
    begin, waiting = _begin([model for model, _ in fetches], free, permitted)
    actions += [Fetch(name) for name in begin]
    left = limits.left(Resolve, running.values())
    actions += [Resolve(model.name) for model in resolves[:left]]
    room = min(free - len(begin), len(waiting))
    return Plan(tuple(actions), min(wakes, default=None), tuple(waiting[:_MOST_WAITING]), room)


def _begin(
    fetches: Sequence[CachedModel], free: int, permitted: Container[str] | None
) -> tuple[list[str], list[str]]:
    """Which of these, by urgency, begin now, and which would if they were permitted.

    Who waits for a permit holds up nobody of its own priority: where many nodes want the same
    models, each so begins with others. From lower priorities it keeps its place.
    """
    begin: list[str] = []
    waiting: list[str] = []
    for _, group in groupby(fetches, lambda model: model.spec.priority):
        names = [model.name for model in group]
        kept = free - len(begin) - len(waiting)
        if kept <= 0:
            break
        may = [name for name in names if permitted is None or name in permitted][:kept]
        begin += may
        if permitted is not None and len(may) < kept:
            waiting += [name for name in names if name not in permitted]
    return begin, waiting


def _need(
    model: CachedModel,
    held: Sequence[Held],
    trial: Trial | None,
    running: Running | None,
    now: float,
) -> _Need:
    need = _Need([Withdraw(model.name, h.snapshot) for h in held if not h.whole])
    source = source_digest(model.spec.source)
    if running is not None and running.source != source:
        need.actions.append(Stop(model.name))
    if trial is not None and trial.source != source:
        trial = None
    ready = present(source, held, trial)
    resolved = trial.resolved if trial else None
    if resolved is not None and ready is not None and ready.snapshot == resolved.snapshot:
        resolved = None
    if ready is not None and not ready.shown:
        need.actions.append(Show(model.name, ready.snapshot))
    if running is not None:
        return need
    if ready is None and in_proof(source, held):
        return need
    if resolved is not None:
        need.fetch = True
        return need
    due = _due(model, ready, trial, now)
    if due is not None and due > now:
        need.wake_at = due
    elif due is not None:
        need.resolve = True
    return need


def present(source: str, held: Sequence[Held], trial: Trial | None) -> Held | None:
    """The snapshot of a source to show: what the origin was last found to hold, else the one that
    is shown.

    The newest only where neither is there: an origin may go back to an older revision.
    """
    mine = [h for h in held if h.whole and h.source == source and not h.unproven]
    known = trial.snapshot if trial is not None and trial.source == source else None
    shown = [h for h in mine if h.shown]
    same = [h for h in mine if h.snapshot == known]
    return next(iter((*same, *shown[-1:], *mine[-1:])), None)


def in_proof(source: str, held: Sequence[Held]) -> bool:
    """Whether a snapshot of a source is being read back: nothing is fetched meanwhile."""
    return any(h.whole and h.source == source and h.unproven for h in held)


def _due(model: CachedModel, ready: Held | None, trial: Trial | None, now: float) -> float | None:
    """When the origin is to be asked: at once or by back-off when nothing is ready, else by the
    refresh policy; None: never.

    Times that can't be are of a clock that was set back since, and hold nothing up.
    """
    retry_at = trial.retry_at if trial else 0.0
    if retry_at > now + MOST_DELAY:
        retry_at = now
    if ready is None:
        return retry_at
    if model.spec.refresh.policy == "Never":
        return None
    if trial is not None and trial.failures:
        return retry_at
    known = (ready.created_at, (trial.checked_at if trial else None) or 0.0)
    checked = max((at for at in known if at <= now), default=0.0)
    return checked + model.spec.refresh.seconds
