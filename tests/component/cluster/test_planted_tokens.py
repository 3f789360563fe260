"""A token of its own in every credential: no object of the cluster has any of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.e2e.test_planted_tokens import World, body_of, models, pem, world
from tests.support.agent import AgentProcess
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually

__all__ = ["world"]

NODE = "node-of-tokens"
MODES = ("403", "404", "html", "401")
"""Of the ways to refuse a request, those that nobody waits for, in turn:
Google's client has the one whose words are told."""


def objects(world: World) -> list[dict[str, Any]]:
    """A CachedModel for each credential, each refused in another way, and one that is fetched."""
    wanted = [model for model in models(world) if model["name"].endswith(MODES)]
    kinds = dict.fromkeys(model["name"].rpartition("-")[0] for model in wanted)
    chosen = [
        next(m for m in wanted if m["name"] == f"{kind}-{MODES[number % len(MODES)]}")
        for number, kind in enumerate(kinds)
        if kind != "gs-refused"
    ]
    query = quote(world.values["web-query"], safe="")
    fetched = {"uri": f"{world.origin.url}/mok/model.gguf?sig={query}", "secretName": "web"}
    chosen.append({"name": "fetched", **fetched})
    return [
        {
            "apiVersion": "modelcache.dev/v1alpha1",
            "kind": "CachedModel",
            "metadata": {"name": model.pop("name")},
            "spec": {"source": model},
        }
        for model in chosen
    ]


@pytest.mark.timeout(180)
def test_no_object_event_or_label_has_a_credential(
    cluster: ControlPlane, world: World, tmp_path: Path
) -> None:
    cluster.plain_node(NODE)
    world.values["api-token"] = cluster.admin_token
    signing = tmp_path / "signing.pem"
    signing.write_text(pem(Ed25519PrivateKey.generate()))
    signing.chmod(0o600)
    world.values["signing-key"] = body_of(signing.read_text())
    found = objects(world)
    names = [each["metadata"]["name"] for each in found]
    for each in found:
        cluster.apply(each)
    flags = (
        *("--cluster", "--kubeconfig", str(cluster.kubeconfig), "--node-name", NODE),
        *("--nodes-at-once", "0", "--signing-key", str(signing)),
        *("--secrets-dir", str(world.folder / "secrets"), "--models-at-once", "16"),
        *("--mirrors", f"hf={world.mirror.url},https={world.mirror.url}", "--log-level", "debug"),
    )

    def states() -> dict[str, str]:
        caches = cluster.api("/apis/modelcache.dev/v1alpha1/nodecaches")["items"]
        return {
            model["name"]: model["state"]
            for cache in caches
            for model in cache.get("status", {}).get("models", ())
        }

    expected = {name: "Ready" if name == "fetched" else "Failed" for name in names}
    try:
        with AgentProcess(world.root, None, *flags, env=world.env) as agent:
            eventually(states, expected.__eq__, timeout=90, what="the states of all models")
            eventually(lambda: _events(cluster), bool, timeout=30, what="an event")
            world.check("/metrics", agent.get("/metrics"))
            agent.terminate(timeout=20)
            world.check("its log", agent.log)
        told: dict[str, Any] = {
            "NodeCaches": cluster.api("/apis/modelcache.dev/v1alpha1/nodecaches"),
            "CachedModels' status": [
                {**each, "spec": None, "metadata": {"name": each["metadata"]["name"]}}
                for each in cluster.api("/apis/modelcache.dev/v1alpha1/cachedmodels")["items"]
            ],
            "the Node": cluster.api(f"/api/v1/nodes/{NODE}"),
            "events": _events(cluster),
            "Leases": cluster.api("/apis/coordination.k8s.io/v1/leases"),
        }
        assert {"ModelReady", "ModelAuthFailed"} <= {event["reason"] for event in told["events"]}
        for what, document in told.items():
            # As it is shown, and as any string in it is read.
            world.check(what, json.dumps(document))
            world.check(what, "\n".join(_strings(document)))
    finally:
        cluster.kubectl("delete", "cachedmodel", *names, "--ignore-not-found")
        cluster.kubectl("delete", "node", NODE, "--ignore-not-found", "--wait=false")


def _events(cluster: ControlPlane) -> list[dict[str, Any]]:
    found = cluster.api("/apis/events.k8s.io/v1/events")["items"]
    return [each for each in found if NODE in json.dumps(each)]


def _strings(document: Any) -> list[str]:
    if isinstance(document, dict):
        return [text for key, value in document.items() for text in (key, *_strings(value))]
    if isinstance(document, list):
        return [text for each in document for text in _strings(each)]
    return [str(document)]
