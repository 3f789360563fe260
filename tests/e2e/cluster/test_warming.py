"""The warmer's container, from its manifests, on a real node: its memory limit is the budget."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from modelcache.host.pagecache import resident_bytes
from tests.e2e.cluster.nodes import cached_model, reported
from tests.e2e.cluster.realnodes import agent_pod, world
from tests.support.cluster.fixtures import NAMESPACE
from tests.support.cluster.kubelet import RealKubelet
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually
from tests.support.hub import GeneratedContent
from tests.support.hub.repository import Source

pytestmark = [pytest.mark.root, pytest.mark.heavy, pytest.mark.timeout(600)]

MIB = 1024 * 1024
LIMIT = {
    "target": {"kind": "DaemonSet", "name": "modelcache-agent"},
    "patch": json.dumps(
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "modelcache-agent"},
            "spec": {
                "template": {
                    "spec": {
                        "containers": [
                            {"name": "warmer", "resources": {"limits": {"memory": "192Mi"}}}
                        ]
                    }
                }
            },
        }
    ),
}
"""As the component's comment says it: 64 MiB for models."""


def in_memory(node: RealKubelet, name: str) -> float:
    """How much of a model is in memory."""
    found = size = 0
    for path in (node.disk / "modelcache/models" / name / "current").iterdir():
        fd = os.open(path, os.O_RDONLY)
        length = path.stat().st_size
        found, size = found + resident_bytes(fd, length), size + length
        os.close(fd)
    return found / size


def warmers_log(plane: ControlPlane, node: RealKubelet) -> list[dict[str, Any]]:
    pod = agent_pod(plane, node.name)
    said = node.logs(NAMESPACE, pod["metadata"]["name"], "warmer")
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def test_it_warms_what_fits_and_says_what_does_not(tmp_path: Path) -> None:
    with world(tmp_path / "overlay", components=["warmer"], patches=[LIMIT]) as cluster:
        sizes = {"fits": 40, "large": 80, "cold": 8}
        for seed, (name, size) in enumerate(sizes.items()):
            files: dict[str, Source] = {
                "model.safetensors": GeneratedContent(size * MIB, seed=seed)
            }
            cluster.hub.add_repo(f"org/{name}", files)
            wish = {} if name == "cold" else {"pageCache": "Warm"}
            cluster.plane.apply(cached_model(name, f"org/{name}", **wish))
        labels = {"modelcache.dev/node": "true"}
        with cluster.node("warm", labels=labels) as node:

            def ready() -> set[str]:
                models = reported(cluster.plane, "warm")
                return {n for n, m in models.items() if m["state"] == "Ready"}

            eventually(ready, lambda names: names == sizes.keys(), timeout=120, what="the models")
            # Some kernels (DAMON) drop pages that nobody has used for seconds: it brings them back.
            eventually(lambda: in_memory(node, "fits"), lambda share: share > 0.9, timeout=60)
            assert in_memory(node, "large") == 0
            assert in_memory(node, "cold") == 0
            log = warmers_log(cluster.plane, node)
            (began,) = [line for line in log if line["event"] == "warmer.started"]
            assert began["budget"] == 64 * MIB
            assert began["budget_reason"] == "this container's memory limit"

            def left_out() -> set[str]:
                log = warmers_log(cluster.plane, node)
                return {line["model"] for line in log if line["event"] == "model.does_not_fit"}

            eventually(left_out, lambda models: models == {"large"}, what="what does not fit")

            def state() -> dict[str, Any]:
                states = agent_pod(cluster.plane, "warm")["status"]["containerStatuses"]
                return next(dict(each) for each in states if each["name"] == "warmer")

            found = eventually(state, lambda each: each["ready"], what="its startup probe")
            assert found["restartCount"] == 0
