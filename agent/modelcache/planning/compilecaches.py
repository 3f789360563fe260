"""What is to be done now for compile caches: pure, as `planning.planner` is for models.

A bundle is shown only while its key is this node's for the object, somebody who is trusted vouches
for it, and it was not withdrawn. Of several that are, the newest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from modelcache.api import CompileCache
from modelcache.planning.compiletrials import CompileTrial, Offer

HINT_SECONDS: Final = 10.0
"""Between two looks that only hints ask for: a place may list late what was published."""


def spec_digest(cache: CompileCache) -> str:
    """16 hex digits of what an object says: the same for the same words, whatever its generation.

    Who reports by it is understood when an object was changed and changed back.
    """
    text = cache.spec.model_dump_json(by_alias=True, exclude_defaults=True)
    return sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Need:
    """What one object asks of this node.

    Attributes:
        spec: the object's `spec_digest`: where it is another, all begins anew.
        place: what tells the place from others: of one that hangs only so many are asked at a time.
        key: this node's key for it; None: not known (yet).
        published: digests that others say were published for the key: reasons to look.
        withdrawn: digests that are to be seeded nowhere.
    """

    spec: str
    place: str
    key: str | None
    published: frozenset[str] = frozenset()
    withdrawn: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class HeldBundle:
    """A bundle on this node.

    Attributes:
        key: what it was compiled for.
        digest: its statement's.
        created_at: seconds since the epoch.
        usable: whether it is whole and trusted.
        shown: whether `current` leads to it.
        outgoing: whether it was made here and is not at the place yet.
    """

    key: str
    digest: str
    created_at: float
    usable: bool = True
    shown: bool = False
    outgoing: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """Ask the place which bundles it has for the key."""

    name: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring a bundle."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Bring a bundle of this node to the place."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Show:
    """Let `current` lead to a bundle that is here."""

    name: str
    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Hide:
    """Let `current` lead nowhere: what it leads to is not to be seeded."""

    name: str


@dataclass(frozen=True, slots=True)
class Discard:
    """Delete one bundle that is of no use any more."""

    name: str
    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete all of an object that nothing wants any more."""

    name: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop what runs for an object: it is for what nobody wants any more."""

    name: str


Action = Look | Fetch | Publish | Show | Hide | Discard | Remove | Stop
Work = Look | Fetch | Publish


@dataclass(frozen=True, slots=True)
class Running:
    """Something that runs for an object: at most one thing for each.

    Attributes:
        work: what it is.
        spec, key: what the object asked for when it began.
        place: where.
        stuck: whether there has been no answer for some time.
    """

    work: Work
    spec: str
    key: str
    place: str
    stuck: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may run at once.

    Attributes:
        moving: of what gives answers.
        all: also of what doesn't.
        place: at one place, so that one that hangs leaves the others theirs.
        look_seconds: between two looks at a place without a reason.
        keep_seconds: how long a bundle is kept that is of no use any more: a pod may be about to
            be seeded from it.
    """

    moving: int = 8
    all: int = 64
    place: int = 4
    look_seconds: float = 300.0
    keep_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Removal:
    """As `planner.Removal`: `since` when an object is not wanted, and which may not go yet."""

    after: float
    since: Mapping[str, float]
    kept: Container[str] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in the order in which they are to begin.

    Attributes:
        actions: what is to be done now.
        wake_at: when there may be more to do without anything happening before; None: never.
        waiting: objects whose work waits until other work has ended, or for a permit.
        unpermitted: digests that would be fetched if that was permitted.
    """

    actions: tuple[Action, ...] = ()
    wake_at: float | None = None
    waiting: frozenset[str] = frozenset()
    unpermitted: tuple[str, ...] = ()


def plan(
    needs: Mapping[str, Need],
    held: Mapping[str, Sequence[HeldBundle]],
    trials: Mapping[str, CompileTrial],
    running: Mapping[str, Running],
    now: float,
    limits: Limits | None = None,
    *,
    left_behind: Mapping[str, int] | None = None,
    permitted: Container[str] | None = None,
    idle_since: Mapping[tuple[str, str], float] | None = None,
    removal: Removal | None = None,
) -> Plan:
    """Decide what to do now.

    Args:
        needs: the objects that select this node, by name.
        held: the bundles on this node, by object.
        trials: what is remembered of tries, by object.
        running: what is under way, by object.
        now: seconds since the epoch.
        limits: how much may run at once.
        left_behind: by place, how much hangs there that nobody waits for any more.
        permitted: digests whose fetch may begin as far as other nodes are concerned; None: all.
        idle_since: by object and digest, since when a bundle is of no use (`idle`).
        removal: when what nothing wants any more is deleted; None: never.
    """
    limits = limits or Limits()
    actions: list[Action] = []
    wakes: list[float] = []
    for name in sorted({*held, *running} - needs.keys()):
        if name in running:
            actions.append(Stop(name))
        elif removal is not None and name in removal.since:
            due = removal.since[name] + removal.after
            if due > now:
                wakes.append(due)
            elif name not in removal.kept:
                actions.append(Remove(name))
    wanted: list[Work] = []
    for name, need in sorted(needs.items()):
        mine, what = held.get(name, ()), running.get(name)
        actions += _visible(name, need, mine)
        idle_of = {d: at for (n, d), at in (idle_since or {}).items() if n == name}
        for bundle in mine:
            if bundle.digest not in idle_of or bundle.shown:
                continue
            due = idle_of[bundle.digest] + limits.keep_seconds
            if due <= now:
                actions.append(Discard(name, bundle.key, bundle.digest))
            else:
                wakes.append(due)
        if what is not None:
            # A key that is not known for a moment is no other.
            if (what.spec, what.key) != (need.spec, need.key or what.key):
                actions.append(Stop(name))
            continue
        work, wake_at = _work(name, need, mine, trials.get(name), now, limits)
        wanted += [work] if work is not None else []
        wakes += [wake_at] if wake_at is not None else []
    refused = [
        work
        for work in wanted
        if isinstance(work, Fetch) and permitted is not None and work.digest not in permitted
    ]
    ready = [work for work in wanted if work not in refused]
    begin, waiting = _begin(ready, needs, running, left_behind or {}, limits)
    return Plan(
        (*actions, *begin),
        min(wakes, default=None),
        waiting | {work.name for work in refused},
        tuple(sorted({work.digest for work in refused})),
    )


def best(need: Need, held: Iterable[HeldBundle]) -> HeldBundle | None:
    """The bundle that is to be seeded from: the newest of those that may be."""
    return max(filter(lambda h: _may_be(need, h), held), key=_age_of, default=None)


def idle(need: Need, held: Sequence[HeldBundle]) -> set[str]:
    """Digests of the bundles that are of no use to this node.

    One that is not at its place yet is: to others.
    """
    chosen = best(need, held)
    return {
        h.digest for h in held if h is not chosen and (not h.outgoing or h.digest in need.withdrawn)
    }


def _is_to_be_published(need: Need, bundle: HeldBundle) -> bool:
    """Whatever its key is: others may have that one."""
    return bundle.outgoing and bundle.usable and bundle.digest not in need.withdrawn


def _may_be(need: Need, bundle: HeldBundle) -> bool:
    return bundle.usable and bundle.key == need.key and bundle.digest not in need.withdrawn


def _age_of(bundle: HeldBundle | Offer) -> tuple[float, str]:
    return bundle.created_at, bundle.digest


def _visible(name: str, need: Need, held: Sequence[HeldBundle]) -> list[Action]:
    """Have the right bundle shown, or none. A key that is not known says nothing: it may be the
    same in a moment, and the bundle was right when it was shown."""
    shown = next((h for h in held if h.shown), None)
    chosen = best(need, held)
    if chosen is not None:
        return [] if chosen.shown else [Show(name, chosen.key, chosen.digest)]
    if shown is None:
        return []
    doubtful = need.key is None and shown.usable and shown.digest not in need.withdrawn
    return [] if doubtful else [Hide(name)]


def _work(
    name: str,
    need: Need,
    held: Sequence[HeldBundle],
    trial: CompileTrial | None,
    now: float,
    limits: Limits,
) -> tuple[Work | None, float | None]:
    """What is to run for an object now; or when there may be something to."""
    if need.key is None:
        return None, None
    if trial is not None and (trial.spec, trial.key) != (need.spec, need.key):
        trial = None
    outgoing = sorted((h for h in held if _is_to_be_published(need, h)), key=_age_of)
    publish_at = trial.unpublished.retry_at if trial and trial.unpublished else 0.0
    if outgoing and publish_at <= now:
        return Publish(name, outgoing[0].digest), None
    work, due = _next(name, need, held, trial, now, limits)
    if work is None and outgoing:
        due = publish_at if due is None else min(due, publish_at)
    return work, due


def _next(
    name: str,
    need: Need,
    held: Sequence[HeldBundle],
    trial: CompileTrial | None,
    now: float,
    limits: Limits,
) -> tuple[Work | None, float | None]:
    """As `_work`, of looking and fetching."""
    if trial is not None and trial.retry_at > now:
        return None, trial.retry_at
    if trial is None or trial.looked_at is None:
        return Look(name), None
    offer = _offer(need, held, trial)
    if offer is not None:
        return Fetch(name, offer.digest), None
    due = trial.looked_at + limits.look_seconds
    if need.published - trial.hinted - need.withdrawn - {h.digest for h in held}:
        due = min(due, trial.looked_at + HINT_SECONDS)
    return (Look(name), None) if due <= now else (None, due)


def _offer(need: Need, held: Sequence[HeldBundle], trial: CompileTrial) -> Offer | None:
    """The bundle to fetch: the newest of the place's, if it is newer than all that is here."""
    chosen = best(need, held)
    # What is here and not usable was fetched before: fetched again it would be the same.
    passed_over = {*need.withdrawn, *trial.refused, *(h.digest for h in held)}
    offers = [offer for offer in trial.offers if offer.digest not in passed_over]
    newest = max(offers, key=_age_of, default=None)
    if newest is None or (chosen is not None and _age_of(chosen) >= _age_of(newest)):
        return None
    return newest


def _begin(
    wanted: Sequence[Work],
    needs: Mapping[str, Need],
    running: Mapping[str, Running],
    left_behind: Mapping[str, int],
    limits: Limits,
) -> tuple[list[Work], frozenset[str]]:
    """Which of these begin now, and the objects of those that wait."""
    at_place = Counter(what.place for what in running.values()) + Counter(left_behind)
    moving = sum(not what.stuck for what in running.values())
    every = len(running) + sum(left_behind.values())
    begin: list[Work] = []
    waiting: set[str] = set()
    # First what others wait for, then what pods of this node wait for.
    for work in sorted(wanted, key=lambda each: (_RANK[type(each)], each.name)):
        place = needs[work.name].place
        if at_place[place] < limits.place and moving < limits.moving and every < limits.all:
            at_place[place] += 1
            moving += 1
            every += 1
            begin.append(work)
        else:
            waiting.add(work.name)
    return begin, frozenset(waiting)


_RANK: Final[Mapping[type[Work], int]] = {Publish: 0, Fetch: 1, Look: 2}
