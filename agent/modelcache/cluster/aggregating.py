"""A CachedModel's status: one model over all nodes, in numbers and in a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import ValidationError

from modelcache.api import Condition
from modelcache.api.cachedmodel import CachedModelStatus, NodeCounts
from modelcache.cluster.client import Object
from modelcache.cluster.tallying import ModelEntry, Report, Tallies, Tally
from modelcache.errors import Reason

READY: Final = "Ready"
"""The condition's type."""

_MOST_REASONS: Final = 3
_MOST_NODES: Final = 3


class ReadyReason(StrEnum):
    """Why the condition Ready is as it is; beside these it has the reasons of `errors.Reason`."""

    ALL_NODES_READY = "AllNodesReady"
    PROGRESSING = "Progressing"
    NO_NODES_SELECTED = "NoNodesSelected"
    INVALID_SPEC = "InvalidSpec"


REASONS: Final = frozenset({*map(str, ReadyReason), *map(str, Reason)})
"""The closed set. What a newer agent may say beside it counts as Internal."""


def aggregate(
    models: Mapping[str, Object],
    nodes: Mapping[str, Object],
    caches: Mapping[str, Object],
    now: datetime,
) -> dict[str, CachedModelStatus]:
    """The status of each model; the arguments are those of `Tallies.update`."""
    tallies = Tallies()
    tallies.update(models, nodes, caches)
    return {name: status(name, tallies, now) for name in models}


def status(name: str, tallies: Tallies, now: datetime) -> CachedModelStatus:
    """What is to be said of one model.

    `revision` is what most of the ready nodes hold, and of several the one that became ready last;
    while no node is ready, what most of the others are fetching. `bytes` is its size on one node.

    The condition's time is kept for as long as its status is the same. Conditions of other types
    are left alone.
    """
    entry = tallies.entries[name]
    tally = entry.tally
    is_ready, reason, message = _readiness(entry)
    revision, size = _held(tally, lambda: tallies.reports(name))
    generation = entry.thing["metadata"].get("generation")
    return CachedModelStatus(
        observed_generation=generation,
        revision=revision or None,
        bytes=size if revision else None,
        nodes=counts(entry),
        conditions=ready_conditions(entry.thing, is_ready, reason, message, now),
    )


def counts(entry: ModelEntry) -> NodeCounts:
    """How far the nodes are."""
    return NodeCounts(
        desired=entry.tally.desired,
        ready=entry.tally.ready.total(),
        downloading=entry.tally.downloading,
        failed=entry.tally.failed,
    )


def _readiness(entry: ModelEntry) -> tuple[bool, str, str]:
    """Whether it is ready, why, and that in a sentence."""
    tally = entry.tally
    if entry.wanted is None:
        return False, ReadyReason.INVALID_SPEC, entry.fault
    if not tally.desired:
        message = "no node is selected"
        if tally.unheard:
            message = f"no agent has reported yet from {named(tally.unheard)}"
        return False, ReadyReason.NO_NODES_SELECTED, message
    ready = tally.ready.total()
    message = _message(tally, ready)
    if ready == tally.desired:
        return True, ReadyReason.ALL_NODES_READY, message
    if tally.failing:
        reasons = Counter(closed(report.reason) for report in tally.failing.values())
        return False, min(reasons, key=lambda reason: (-reasons[reason], reason)), message
    return False, ReadyReason.PROGRESSING, message


def _message(tally: Tally, ready: int) -> str:
    """`3 of 5 nodes ready; 1 downloading (42 %), 1 failed: node-7: AuthFailed: …`"""
    others = []
    if tally.downloading:
        share = f" ({100 * tally.done // tally.total} %)" if tally.total else ""
        others.append(f"{tally.downloading} downloading{share}")
    if tally.failed:
        others.append(f"{tally.failed} failed")
    pending = tally.desired - ready - tally.downloading - tally.failed
    if pending:
        others.append(f"{pending} pending")
    what = ", ".join(others)
    if tally.failing:
        what += f": {_troubles(tally.failing)}"
    parts = [f"{ready} of {tally.desired} nodes ready", what]
    if len({revision for revision, _ in tally.ready}) > 1:
        parts.append(f"they hold {_revisions(tally)}")
    if tally.behind:
        parts.append(f"a refresh failed: {_troubles(tally.behind)}")
    if tally.unheard:
        parts.append(f"no agent has reported yet from {named(tally.unheard)}")
    return "; ".join(filter(None, parts))


def _troubles(failing: Mapping[str, Report]) -> str:
    """The most frequent reasons, each with a node that has it and what that says."""
    by_reason: dict[str, list[str]] = {}
    for node, report in failing.items():
        by_reason.setdefault(closed(report.reason), []).append(node)
    ranked = sorted(by_reason.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    told = []
    for reason, nodes in ranked[:_MOST_REASONS]:
        node = min(nodes)
        said = failing[node].message.rstrip(".")
        where = node if len(nodes) == 1 else f"{node} and {len(nodes) - 1} more"
        told.append(f"{where}: {reason}" + (f": {said}" if said else ""))
    return ", ".join([*told, *(["…"] if len(ranked) > _MOST_REASONS else [])])


def _revisions(tally: Tally) -> str:
    by_revision: Counter[str] = Counter()
    for (revision, _), nodes in tally.ready.items():
        by_revision[revision] += nodes
    ranked = sorted(by_revision.items(), key=lambda pair: (-pair[1], pair[0]))
    return " and ".join(f"{revision[:12]} on {nodes}" for revision, nodes in ranked)


def named(nodes: Iterable[str]) -> str:
    """Nodes by name, the first three of them."""
    names = sorted(nodes)
    if len(names) <= _MOST_NODES:
        return ", ".join(names)
    return f"{', '.join(names[:_MOST_NODES])} and {len(names) - _MOST_NODES} more"


def closed(reason: str) -> str:
    """A reason of the closed set."""
    return reason if reason in REASONS else Reason.INTERNAL.value


def _held(tally: Tally, reports: Callable[[], Iterable[Report]]) -> tuple[str, int]:
    """Revision and bytes; an empty revision where none is known."""
    counted = {held: n for held, n in (tally.ready or tally.fetching).items() if held[0]}
    most = max(counted.values(), default=0)
    candidates = sorted(held for held, nodes in counted.items() if nodes == most)
    if len(candidates) < 2:
        return candidates[0] if candidates else ("", 0)
    finished = dict.fromkeys(candidates, "")
    for report in reports():
        held = (report.revision, report.total)
        if held in finished:
            finished[held] = max(finished[held], report.finished)
    return max(candidates, key=lambda held: (finished[held], held))


def ready_conditions(
    thing: Object, is_ready: bool, reason: str, message: str, now: datetime
) -> tuple[Condition, ...]:
    """An object's conditions with Ready anew: its time is kept while its status is the same."""
    generation = thing["metadata"].get("generation")
    before = recorded_conditions(thing)
    word: Literal["True", "False"] = "True" if is_ready else "False"
    last = before.get(READY)
    ready = Condition(
        type=READY,
        status=word,
        reason=reason,
        message=message,
        last_transition_time=last.last_transition_time if last and last.status == word else now,
        observed_generation=generation,
    )
    return tuple({**before, READY: ready}.values())


def recorded_conditions(thing: Object) -> dict[str, Condition]:
    """The conditions that an object's status has, by type; without those that can't be read."""
    stored: Iterable[Any] = (thing.get("status") or {}).get("conditions") or ()
    conditions = {}
    for document in stored:
        with suppress(ValidationError):
            conditions[document["type"]] = Condition.from_document(document)
    return conditions
