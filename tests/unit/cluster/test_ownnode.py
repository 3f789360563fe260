from __future__ import annotations

from typing import Any

from modelcache.cluster.ownnode import is_ours, keep_node


def node(**fields: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "n1",
            "uid": "u1",
            "resourceVersion": "12",
            "labels": {"modelcache.dev/model.a": "Ready", "gpu": "true"},
            "managedFields": [{}],
        },
        "spec": {"taints": []},
        "status": {
            "images": [{"names": ["big"]}],
            "conditions": [
                {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"},
                {
                    "type": "ModelCacheReady",
                    "status": "True",
                    "reason": "AllReady",
                    "message": "m",
                    "lastHeartbeatTime": "2026-01-01T00:00:00Z",
                },
            ],
        },
        **fields,
    }


def test_what_is_kept_of_a_node_has_no_heartbeat_and_no_images() -> None:
    assert keep_node("ModelCacheReady")(node()) == {
        "name": "n1",
        "uid": "u1",
        "version": 12,
        "labels": {"modelcache.dev/model.a": "Ready", "gpu": "true"},
        "condition": {
            "type": "ModelCacheReady",
            "status": "True",
            "reason": "AllReady",
            "message": "m",
        },
    }


def test_a_node_may_have_neither_labels_nor_conditions() -> None:
    bare = node(metadata={"name": "n1", "uid": "u1", "resourceVersion": "1"}, status={})
    kept = keep_node("ModelCacheReady")(bare)
    assert kept["labels"] == {}
    assert kept["condition"] is None


def test_ours_are_the_labels_that_tell_of_content() -> None:
    assert is_ours("modelcache.dev/model.llama")
    assert is_ours("modelcache.dev/revision.llama")
    assert is_ours("modelcache.dev/compile.llama")
    assert not is_ours("modelcache.dev/inject")
    assert not is_ours("modelcache.dev/not-ready")
    assert not is_ours("example.com/model.llama")
