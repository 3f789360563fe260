"""This node, as the API server has it: its labels are read, ours and our condition are written.

Nothing is written that is there already: a restart changes nothing, and a label that somebody took
off by hand comes back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from modelcache.api import Condition
from modelcache.cluster.client import NODES, Client, Object, Patch
from modelcache.cluster.resources import node_reference
from modelcache.planning.labelling import COMPILE_LABEL, MODEL_LABEL, REVISION_LABEL

OUR_LABELS: Final = (MODEL_LABEL, REVISION_LABEL, COMPILE_LABEL)
"""Beginnings of the labels that are an agent's to write."""


def is_ours(label: str) -> bool:
    """Whether a node's label is an agent's."""
    return label.startswith(OUR_LABELS)


def keep_node(condition: str, also: Collection[str] = ()) -> Callable[[Object], Object]:
    """What of a Node a Mirror keeps: a node's heartbeat is no news, nor are its images.

    `condition` is the type of our first condition, `also` are those of the others.
    """

    def keep(node: Object) -> Object:
        metadata, status = node["metadata"], node.get("status") or {}
        conditions = status.get("conditions") or ()
        ours = [c for c in conditions if c["type"] == condition]
        others = {c["type"]: _compared(c) for c in conditions if c["type"] in also}
        return {
            "name": metadata["name"],
            "uid": metadata["uid"],
            "version": int(metadata["resourceVersion"]),
            "labels": metadata.get("labels") or {},
            "condition": _compared(ours[0]) if ours else None,
            **({"others": others} if also else {}),
        }

    return keep


@dataclass(frozen=True, slots=True)
class NodeView:
    """The node at one moment."""

    name: str
    uid: str
    labels: Mapping[str, str]
    condition: Mapping[str, str] | None
    others: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Our other conditions, by type."""

    @property
    def reference(self) -> Object:
        """What leads to it."""
        return node_reference(self.name, self.uid)

    @property
    def ours(self) -> dict[str, str]:
        """Our labels on it."""
        return {key: value for key, value in self.labels.items() if is_ours(key)}


class OwnNode:
    """This node. Safe for threads."""

    def __init__(
        self,
        client: Client,
        name: str,
        condition: str,
        seen: Callable[[], Object | None],
        also: Collection[str] = (),
    ) -> None:
        """`seen` gives what a Mirror with `keep_node` has; `condition` and `also` are as there."""
        self._client = client
        self._name = name
        self._condition = condition
        self._seen = seen
        self._keep = keep_node(condition, also)
        self._mutex = threading.Lock()
        self._written: Object | None = None

    def view(self) -> NodeView | None:
        """The node as it was last seen, or as it was last written; None: not seen yet."""
        seen = self._seen()
        if seen is None:
            return None
        with self._mutex:
            # What was seen before the write says nothing of it. Resource versions are comparable
            # as integers (KEP-5504; it was always so with etcd).
            if self._written is not None and self._written["uid"] == seen["uid"]:
                seen = max(seen, self._written, key=lambda node: int(node["version"]))
        return NodeView(
            *(seen["name"], seen["uid"], seen["labels"], seen["condition"]),
            seen.get("others") or {},
        )

    def label(self, wanted: Mapping[str, str]) -> bool:
        """Have the node carry these labels of ours and no others; whether that took a write.

        Raises:
            ClusterError
        """
        view = self.view()
        if view is None:
            return False
        changes: dict[str, str | None] = dict.fromkeys(view.ours.keys() - wanted.keys())
        changes |= {key: value for key, value in wanted.items() if view.labels.get(key) != value}
        if not changes:
            return False
        self._note(self._client.patch(NODES, self._name, {"metadata": {"labels": changes}}))
        return True

    def set_condition(self, condition: Condition) -> bool:
        """Have the node carry a condition; whether that took a write.

        Raises:
            ClusterError
        """
        view = self.view()
        if view is None:
            return False
        document: dict[str, Any] = condition.to_document()
        document.pop("observedGeneration", None)
        is_first = condition.type == self._condition
        found = view.condition if is_first else view.others.get(condition.type)
        if found == _compared(document):
            return False
        # For who reads node conditions as kubelet writes them.
        document["lastHeartbeatTime"] = document["lastTransitionTime"]
        written = self._client.patch(
            NODES,
            self._name,
            {"status": {"conditions": [document]}},
            Patch.STRATEGIC,
            subresource="status",
        )
        self._note(written)
        return True

    def _note(self, written: Object) -> None:
        with self._mutex:
            self._written = self._keep(written)


def _compared(condition: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(condition.get(key, "")) for key in ("type", "status", "reason", "message")}
