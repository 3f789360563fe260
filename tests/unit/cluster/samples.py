"""Objects of the API server as Mirrors have them, for the tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelcache.cluster.client import Object
from modelcache.cluster.tallying import keep_reports

URI = "hf://org/name"


def cached_model(name: str = "m", *, generation: int = 1, uri: str = URI, **spec: Any) -> Object:
    """A CachedModel; `spec` has further fields of it."""
    return {
        "apiVersion": "modelcache.dev/v1alpha1",
        "kind": "CachedModel",
        "metadata": {"name": name, "uid": f"uid-{name}", "generation": generation},
        "spec": {"source": {"uri": uri}, **spec},
    }


def report(name: str = "m", state: str = "Ready", **fields: Any) -> Object:
    """A model in a NodeCache, with the API server's defaults."""
    known: Object = {"name": name, "state": state, "wanted": True, "source": URI}
    if state == "Ready":
        known |= {"revision": "a" * 40, "bytesTotal": 100, "bytesDone": 100}
        known |= {"finishedAt": "2024-01-01T00:00:00Z"}
    return {**known, **fields}


def node_cache(name: str, *reports: Object, owned: bool = True) -> Object:
    """A NodeCache, trimmed."""
    metadata: Object = {"name": name, "uid": f"uid-{name}"}
    if owned:
        metadata["ownerReferences"] = [{"kind": "Node", "name": name, "uid": f"node-{name}"}]
    return keep_reports({"metadata": metadata, "status": {"models": list(reports)}})


def caches(**models: list[Object] | Object) -> dict[str, Object]:
    """NodeCaches by the node's name, each with its reports, or its one report."""
    return {
        name: node_cache(name, *(given if isinstance(given, list) else [given]))
        for name, given in models.items()
    }


def nodes(*names: str, **labelled: Mapping[str, str]) -> dict[str, Object]:
    """Nodes, trimmed: by name alone, or with labels."""
    return {name: {"labels": dict(labelled.get(name, {}))} for name in (*names, *labelled)}
