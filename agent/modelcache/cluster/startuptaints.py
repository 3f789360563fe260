"""The startup taint: off a node when its models are there, or when it has waited long enough.

kubelet sets the taint (`--register-with-taints`), or the machine's template does, so that no pod
comes before the models. It goes when the node's condition says so, and at the latest some minutes
after the node was made, also where no agent ever came up: a node is never lost for want of us.

The taint is set only when a Node object is made (kubelet's `tryRegisterWithAPIServer` adds none to
one that is there), and a new object has no conditions: so no condition is older than the taint.
After a reboot, where the object stays, there is no taint; the agent's condition, which holds for
one boot, may then be a stale True until the agent has started. Who sets the taint by hand at such a
time, or on a node that is older than the deadline, sees it go at once: to keep pods off a node, use
a taint of your own.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from modelcache.cluster.client import Object
from modelcache.cluster.ownnode import is_ours


def keep_node(node: Object, condition: str) -> Object:
    """What of a Node a Mirror keeps for the controller: its labels, less those that agents write,
    its taints, and the status of the condition of this type (empty for none)."""
    metadata, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    found = (c["status"] for c in status.get("conditions") or () if c["type"] == condition)
    return {
        "name": metadata["name"],
        "uid": metadata["uid"],
        "created": metadata.get("creationTimestamp") or "",
        # The same texts are on thousands of nodes.
        "labels": {
            sys.intern(key): sys.intern(value)
            for key, value in (metadata.get("labels") or {}).items()
            if not is_ours(key)
        },
        "version": int(metadata["resourceVersion"]),
        "taints": spec.get("taints") or [],
        "condition": next(found, ""),
    }


class Cause(StrEnum):
    """Why a taint goes."""

    READY = "ready"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class Removal:
    """A node whose startup taint is to go now."""

    node: str
    uid: str
    cause: Cause
    patch: tuple[Object, ...]
    """An RFC 6902 patch that does it, and fails where the node is another or its taints are."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done now, and when there is more to do though nothing changes."""

    removals: tuple[Removal, ...]
    next_due: datetime | None


def decide(nodes: Iterable[Object], key: str, deadline: timedelta, now: datetime) -> Decision:
    """Which nodes lose the taint with this key, whatever its value and effect.

    Args:
        nodes: as `keep_node` leaves them.
        key: the taint's key.
        deadline: how long after its creation a node has it at most.
        now: with a time zone.
    """
    removals: list[Removal] = []
    due: list[datetime] = []
    for node in nodes:
        steps = taint_removal(node["taints"], (key,))
        if not steps:
            continue
        ends = _created(node) + deadline
        if node["condition"] == "True":
            cause = Cause.READY
        elif ends <= now:
            cause = Cause.DEADLINE
        else:
            due.append(ends)
            continue
        removals.append(Removal(node["name"], node["uid"], cause, (same_node(node["uid"]), *steps)))
    return Decision(tuple(removals), min(due, default=None))


def taint_removal(taints: Sequence[Object], keys: Collection[str]) -> list[Object]:
    """The steps of an RFC 6902 patch that take the taints with these keys off a node, whatever
    their value and effect. They fail where its taints are others by now.

    Each is tested and removed by its place: `taints` is a list without a merge key, so that
    anything else would write the others' taints too, as they were a moment ago.
    """
    steps: list[Object] = []
    for place, taint in reversed([*enumerate(taints)]):  # the places before it stay as they are
        if taint.get("key") in keys:
            path = f"/spec/taints/{place}"
            steps.append({"op": "test", "path": path, "value": taint})
            steps.append({"op": "remove", "path": path})
    return steps


def same_node(uid: str) -> Object:
    """A step that fails on a node that was made anew under the same name."""
    return {"op": "test", "path": "/metadata/uid", "value": uid}


def _created(node: Object) -> datetime:
    """When the node was made. One that does not say has waited long enough."""
    text: Any = node["created"]
    try:
        created = datetime.fromisoformat(text)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return created if created.tzinfo else created.replace(tzinfo=UTC)
