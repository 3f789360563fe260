"""What is ours on a node, and what takes it off."""

from __future__ import annotations

from typing import Any

import pytest

from modelcache.cluster.cleaning import Leftover, leftover

TAINT = "modelcache.dev/not-ready"
CONDITION = "ModelCacheReady"
OF_THE_DISK = "ModelCacheDiskHealthy"
CONDITIONS = (CONDITION, OF_THE_DISK)
FOREIGN = {
    "kubernetes.io/hostname": "n",
    "modelcache.dev/node": "true",
    "modelcache.dev/models": "x",
}


def node(
    labels: dict[str, str] | None = None, taints: Any = None, conditions: Any = None
) -> dict[str, Any]:
    return {
        "metadata": {"name": "n", "uid": "u", "labels": {**FOREIGN, **(labels or {})}},
        "spec": {"taints": taints} if taints else {},
        "status": {"conditions": conditions} if conditions else {},
    }


def found(thing: dict[str, Any]) -> Leftover | None:
    return leftover(thing, (TAINT,), CONDITIONS)


SAME_NODE = {"op": "test", "path": "/metadata/uid", "value": "u"}


def test_labels_by_their_beginnings() -> None:
    left = found(node({"modelcache.dev/revision.a": "0", "modelcache.dev/model.a": "Ready"}))
    assert left == Leftover(
        "n",
        (
            SAME_NODE,
            {"op": "remove", "path": "/metadata/labels/modelcache.dev~1model.a"},
            {"op": "remove", "path": "/metadata/labels/modelcache.dev~1revision.a"},
        ),
        conditions=(),
    )


def test_the_taint_by_its_key_from_the_end_and_tested() -> None:
    ours = {"key": TAINT, "effect": "NoSchedule"}
    again = {"key": TAINT, "effect": "NoExecute", "value": "x"}
    left = found(node(taints=[ours, {"key": "nvidia.com/gpu", "effect": "NoSchedule"}, again]))
    assert left is not None
    assert left.patch == (
        SAME_NODE,
        {"op": "test", "path": "/spec/taints/2", "value": again},
        {"op": "remove", "path": "/spec/taints/2"},
        {"op": "test", "path": "/spec/taints/0", "value": ours},
        {"op": "remove", "path": "/spec/taints/0"},
    )


def test_the_condition_by_its_type() -> None:
    left = found(node(conditions=[{"type": "Ready"}, {"type": CONDITION}]))
    assert left == Leftover("n", (), conditions=(CONDITION,))
    left = found(node(conditions=[{"type": OF_THE_DISK}, {"type": "Ready"}, {"type": CONDITION}]))
    assert left == Leftover("n", (), conditions=CONDITIONS)


@pytest.mark.parametrize(
    "thing",
    [
        node(),
        node(taints=[{"key": "modelcache.dev/other", "effect": "NoSchedule"}]),
        node(conditions=[{"type": "Ready"}]),
        {"metadata": {"name": "n", "uid": "u"}},
        {"metadata": {"name": "n", "uid": "u", "labels": None}, "spec": None, "status": None},
    ],
)
def test_what_is_others_is_left_alone(thing: dict[str, Any]) -> None:
    assert found(thing) is None


def test_without_a_taint_no_taint() -> None:
    thing = node(taints=[{"key": TAINT, "effect": "NoSchedule"}])
    assert leftover(thing, (), CONDITIONS) is None
