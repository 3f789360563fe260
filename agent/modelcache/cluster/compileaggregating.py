"""A CompileCache's status: one compile cache over all nodes, and the bundles that there are.

Bundles are remembered in the status itself: a node that held one may be gone. A bundle that was
withdrawn stays so.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import ValidationError

from modelcache.api.compilecache import (
    BundleReport,
    BundleState,
    CompileCacheStatus,
    CompileNodeCounts,
)
from modelcache.cluster.aggregating import closed, named, ready_conditions
from modelcache.cluster.client import Object
from modelcache.cluster.compiletallying import (
    Bundle,
    CompileEntry,
    CompileSaid,
    CompileTallies,
    CompileTally,
)

_MOST_BUNDLES: Final = 64
_MOST_WITHDRAWN: Final = 48
_MOST_REASONS: Final = 3


class CompileReadyReason(StrEnum):
    """Why the condition Ready is as it is; beside these it has the reasons of `errors.Reason`."""

    ALL_NODES_READY = "AllNodesReady"
    NOTHING_PUBLISHED = "NothingPublished"
    """For the key of some node: the next pod that starts there compiles, and publishes."""
    PROGRESSING = "Progressing"
    NO_NODES_SELECTED = "NoNodesSelected"
    INVALID_SPEC = "InvalidSpec"


def compile_status(name: str, tallies: CompileTallies, now: datetime) -> CompileCacheStatus:
    """What is to be said of one compile cache."""
    entry = tallies.entries[name]
    is_ready, reason, message = _readiness(entry)
    counts = compile_counts(entry)
    return CompileCacheStatus(
        observed_generation=entry.thing["metadata"].get("generation"),
        bundles=bundles(recorded_bundles(entry.thing), entry.tally),
        nodes=counts,
        ready_nodes=f"{counts.ready}/{counts.desired}",
        conditions=ready_conditions(entry.thing, is_ready, reason, message, now),
    )


def compile_counts(entry: CompileEntry) -> CompileNodeCounts:
    """How far the nodes are."""
    tally = entry.tally
    return CompileNodeCounts(
        desired=tally.desired, ready=tally.ready, missing=tally.missing, failed=tally.failed
    )


def recorded_bundles(thing: Object) -> dict[str, BundleReport]:
    """The bundles that an object's status has, by digest; without those that can't be read."""
    found = {}
    stored: Any = (thing.get("status") or {}).get("bundles") or ()
    for document in stored:
        with suppress(ValidationError):
            report = BundleReport.from_document(document)
            found[report.digest] = report
    return found


def bundles(before: dict[str, BundleReport], tally: CompileTally) -> tuple[BundleReport, ...]:
    """The bundles published for an object: what was known and what nodes say, newest first."""
    found = dict(before)
    for bundle in tally.bundles:
        if bundle.digest in found:
            continue
        with suppress(ValidationError):
            found[bundle.digest] = _report(bundle)
    for digest, report in found.items():
        if digest in tally.verified and report.state is BundleState.PUBLISHED:
            found[digest] = report.model_copy(update={"state": BundleState.VERIFIED})
    for digest, key, why in sorted(tally.withdrawn):
        update = {"state": BundleState.WITHDRAWN, "message": why}
        known = found.get(digest)
        with suppress(ValidationError):
            if known is None:
                found[digest] = BundleReport.model_validate(
                    {"digest": digest, "key": key, **update}
                )
            elif known.state is not BundleState.WITHDRAWN:
                found[digest] = known.model_copy(update=update)
    ordered = sorted(found.values(), key=_newest_first)
    # What was withdrawn and is forgotten would be seeded again.
    gone = [each for each in ordered if each.state is BundleState.WITHDRAWN][:_MOST_WITHDRAWN]
    others = [each for each in ordered if each.state is not BundleState.WITHDRAWN]
    kept = (*gone, *others[: _MOST_BUNDLES - len(gone)])
    return tuple(sorted(kept, key=_newest_first))


def _report(bundle: Bundle) -> BundleReport:
    return BundleReport.from_document(
        {
            "digest": bundle.digest,
            "key": bundle.key,
            "accelerator": bundle.accelerator,
            "bytes": bundle.size,
            **({"createdAt": bundle.created} if bundle.created else {}),
        }
    )


def _newest_first(report: BundleReport) -> tuple[float, str]:
    at = report.created_at.timestamp() if report.created_at else 0.0
    return -at, report.digest


def _readiness(entry: CompileEntry) -> tuple[bool, str, str]:
    """Whether it is ready, why, and that in a sentence."""
    tally = entry.tally
    if entry.wanted is None:
        return False, CompileReadyReason.INVALID_SPEC, entry.fault
    if not tally.desired:
        message = "no node is selected"
        if tally.unheard:
            message = f"no agent has reported yet from {named(tally.unheard)}"
        return False, CompileReadyReason.NO_NODES_SELECTED, message
    message = _message(tally)
    if tally.ready == tally.desired:
        return True, CompileReadyReason.ALL_NODES_READY, message
    if tally.failing:
        reasons = Counter(closed(said.reason) for said in tally.failing.values())
        return False, min(reasons, key=lambda reason: (-reasons[reason], reason)), message
    if tally.missing:
        return False, CompileReadyReason.NOTHING_PUBLISHED, message
    return False, CompileReadyReason.PROGRESSING, message


def _message(tally: CompileTally) -> str:
    """`3 of 5 nodes ready; 1 has nothing published for its key, 1 failed: node-7: AuthFailed: …`"""
    others = []
    if tally.missing:
        several = tally.missing > 1
        whose = (
            "nodes have nothing published for their keys"
            if several
            else ("node has nothing published for its key")
        )
        others.append(f"{tally.missing} {whose}")
    pending = tally.desired - tally.ready - tally.missing - tally.failed
    if pending:
        others.append(f"{pending} pending")
    if tally.failed:
        others.append(f"{tally.failed} failed: {_troubles(tally.failing)}")
    parts = [f"{tally.ready} of {tally.desired} nodes ready", ", ".join(others)]
    if tally.unheard:
        parts.append(f"no agent has reported yet from {named(tally.unheard)}")
    return "; ".join(filter(None, parts))


def _troubles(failing: dict[str, CompileSaid]) -> str:
    by_reason: dict[str, list[str]] = {}
    for node, said in failing.items():
        by_reason.setdefault(closed(said.reason), []).append(node)
    told = []
    ranked = sorted(by_reason.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    for reason, nodes in ranked[:_MOST_REASONS]:
        node = min(nodes)
        why = failing[node].message.rstrip(".")
        where = node if len(nodes) == 1 else f"{node} and {len(nodes) - 1} more"
        told.append(f"{where}: {reason}" + (f": {why}" if why else ""))
    return ", ".join(told)
