"""Hollow nodes with a real agent each, as its own ServiceAccount would run it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.agent import AgentProcess
from tests.support.cluster.plane import ControlPlane
from tests.support.hub import HubServer

READY = "modelcache.dev/model."
REVISION = "modelcache.dev/revision."


def start_agent(
    cluster: ControlPlane, hub: HubServer, folder: Path, node: str, *flags: str
) -> AgentProcess:
    """The agent of a node, with a root of its own."""
    return AgentProcess(
        folder / node,
        None,
        *("--cluster", "--kubeconfig", str(cluster.kubeconfig), "--node-name", node),
        *("--report-seconds", "1", *flags),
        env={"HF_ENDPOINT": hub.url},
    )


def cached_model(name: str, repository: str, **spec: Any) -> dict[str, Any]:
    """A CachedModel as a person writes it."""
    source = {"uri": f"hf://{repository}", **spec.pop("source", {})}
    return {
        "apiVersion": "modelcache.dev/v1alpha1",
        "kind": "CachedModel",
        "metadata": {"name": name},
        "spec": {"source": source, **spec},
    }


def model_path(name: str) -> str:
    """Where the API server has a CachedModel."""
    return f"/apis/modelcache.dev/v1alpha1/cachedmodels/{name}"


def node_cache(cluster: ControlPlane, node: str) -> dict[str, Any]:
    """A node's NodeCache; empty where there is none."""
    return cluster.find(f"/apis/modelcache.dev/v1alpha1/nodecaches/{node}") or {}


def reported(cluster: ControlPlane, node: str) -> dict[str, Any]:
    """The models of a NodeCache, by name."""
    models = node_cache(cluster, node).get("status", {}).get("models", [])
    return {model["name"]: model for model in models}


def our_labels(cluster: ControlPlane, node: str) -> dict[str, str]:
    """Our labels on a node."""
    labels = cluster.node_labels(node)
    return {k: v for k, v in labels.items() if k.startswith((READY, REVISION))}


def condition(thing: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """One condition of an object; empty where it has none."""
    found = [c for c in thing.get("status", {}).get("conditions", []) if c["type"] == kind]
    return dict(found[0]) if found else {}
