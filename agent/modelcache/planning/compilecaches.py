"""What is to be done now for compile caches: pure, as `planning.planner` is for models.

Which bundle is the right one `compilechoosing` says, what may run at once `compilebudget`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from modelcache.planning.compileactions import (
    Action,
    Discard,
    Fetch,
    Hide,
    Look,
    Publish,
    Remove,
    Show,
    Stop,
    Work,
)
from modelcache.planning.compilebudget import Limits, Running, begin
from modelcache.planning.compilechoosing import (
    HeldBundle,
    Need,
    age_of,
    best,
    is_to_be_published,
    offered,
    stays_shown,
)
from modelcache.planning.compiletrials import CompileTrial
from modelcache.planning.removing import Removal

HINT_SECONDS: Final = 10.0
"""Between two looks that only hints ask for: a place may list late what was published."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in the order in which they are to begin.

    Attributes:
        actions: what is to be done now.
        wake_at: when there may be more to do without anything happening before; None: never.
        waiting: objects whose work waits until other work has ended, or for a permit.
        permitted: digests of fetches that wait though they have a permit: it is kept.
        unpermitted: digests that would be fetched if that was permitted.
        room: how many of those permits are of use now.
    """

    actions: tuple[Action, ...] = ()
    wake_at: float | None = None
    waiting: frozenset[str] = frozenset()
    permitted: tuple[str, ...] = ()
    unpermitted: tuple[str, ...] = ()
    room: int = 0


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
        elif removal is not None:
            is_due, due = removal.look(name, now)
            actions += [Remove(name)] if is_due else []
            wakes += [due] if due is not None else []
    idle_of: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for (name, digest), since in (idle_since or {}).items():
        idle_of[name][digest] = since
    wanted: list[Work] = []
    for name, need in sorted(needs.items()):
        mine, what = held.get(name, ()), running.get(name)
        actions += _visible(name, need, mine)
        for bundle in mine:
            if bundle.digest not in idle_of[name] or bundle.shown:
                continue
            due = idle_of[name][bundle.digest] + limits.keep_seconds
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
    places = {name: need.place for name, need in needs.items()}
    begun = begin(wanted, places, running.values(), left_behind or {}, limits, permitted)
    return Plan(
        (*actions, *begun.work),
        min(wakes, default=None),
        begun.waiting,
        begun.permitted,
        begun.unpermitted,
        begun.room,
    )


def _visible(name: str, need: Need, held: Sequence[HeldBundle]) -> list[Action]:
    """Have the right bundle shown, or none."""
    shown = next((h for h in held if h.shown), None)
    chosen = best(need, held)
    if chosen is not None:
        return [] if chosen.shown else [Show(name, chosen.key, chosen.digest)]
    return [] if shown is None or stays_shown(need, shown) else [Hide(name)]


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
    outgoing = sorted((h for h in held if is_to_be_published(need, h)), key=age_of)
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
    due = trial.looked_at + limits.look_seconds
    if trial.failures and due <= now:
        # What can't be fetched may not be there any more, or there may be a newer one.
        return Look(name), None
    offer = offered(need, held, trial)
    if offer is not None:
        return Fetch(name, offer.digest), None
    if need.published - trial.hinted - need.withdrawn - {h.digest for h in held}:
        due = min(due, trial.looked_at + HINT_SECONDS)
    return (Look(name), None) if due <= now else (None, due)
