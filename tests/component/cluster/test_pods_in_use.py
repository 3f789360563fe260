"""What the pods of a node use, as a real API server tells it, of a real store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from modelcache.api import Manifest
from modelcache.planning.using import Uses
from modelcache.service.clusterside import ClusterSide
from modelcache.service.using import Using
from modelcache.settings import AgentSettings
from modelcache.store import Store
from modelcache.transfer import Cancel
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually
from tests.support.store import COMMIT, OTHER_COMMIT, put

NODE = "node-of-use"
HOUR = 3600.0


class Bench:
    """A node with a store, whose `current` went from one snapshot to another two hours ago, and its
    side towards the cluster."""

    def __init__(self, cluster: ControlPlane, root: Path) -> None:
        self.cluster = cluster
        self.store = Store(root)
        self.old = self._put({"w": b"old"}, COMMIT)
        self.new = self._put({"w": b"new"}, OTHER_COMMIT)
        log = self.store.layout.shown_log("a")
        document = json.loads(log.read_text())
        document["shown"] = [[snapshot, at - 2 * HOUR] for snapshot, at in document["shown"]]
        log.write_text(json.dumps(document))
        self.switched = self.store.history("a")[-1].at
        using = Using(self.store, alone=False)
        settings = AgentSettings(
            cluster=True, kubeconfig=cluster.kubeconfig, node_name=NODE, nodes_at_once=0
        )
        self.side = ClusterSide(
            settings,
            root=root,
            before=None,
            report=lambda: None,
            on_catalog=lambda: None,
            on_change=lambda: None,
            beside=using.beside,
        )

    def _put(self, files: dict[str, bytes], commit: str) -> Manifest:
        return put(self.store, "a", files, commit=commit)

    def uses(self) -> Uses:
        return self.side.uses()

    def in_use(self) -> list[str]:
        uses = self.uses()
        assert uses.unknown is None
        return [m for m in ("old", "new") if uses.of("a", getattr(self, m).snapshot)]

    def pod(self, name: str, path: str = "models/a/current", **status: Any) -> None:
        """A pod of the node that mounts something of the root."""
        volume = {"name": "v", "hostPath": {"path": str(self.store.layout.root / path)}}
        container = {"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/m"}]}
        self.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {
                    "nodeName": NODE,
                    "containers": [container],
                    "volumes": [volume],
                    "terminationGracePeriodSeconds": 0,
                },
            }
        )
        self.status(name, phase="Pending", **status)

    def status(self, name: str, **status: Any) -> None:
        path = f"/api/v1/namespaces/default/pods/{name}/status"
        self.cluster.api(path, "PATCH", {"status": status}, "merge-patch+json")

    def runs(self, name: str, since: float) -> None:
        """kubelet reports that its container runs."""
        started = datetime.fromtimestamp(since, UTC).isoformat().replace("+00:00", "Z")
        state = {"running": {"startedAt": started}}
        container = {
            "name": "c",
            "image": "i",
            "imageID": "",
            "ready": True,
            "restartCount": 0,
            "state": state,
        }
        self.status(name, phase="Running", containerStatuses=[container])


@pytest.fixture
def bench(cluster: ControlPlane, tmp_path: Path) -> Iterator[Bench]:
    cluster.plain_node(NODE)
    cluster.await_service_account("default")
    bench = Bench(cluster, tmp_path / "root")
    cancel = Cancel()
    bench.side.start(cancel)
    try:
        yield bench
    finally:
        cancel.set()
        bench.side.close(0.0)
        cluster.kubectl("delete", "node", NODE, "--ignore-not-found", "--wait=false")


def test_which_revision_a_pod_uses_follows_from_when_it_began(bench: Bench) -> None:
    eventually(lambda: bench.uses().unknown is None)
    assert bench.in_use() == []
    bench.pod("p")
    eventually(bench.in_use, ["new"].__eq__, what="a pod that has not begun mounts what is shown")
    bench.runs("p", bench.switched - HOUR)
    eventually(bench.in_use, ["old", "new"].__eq__, what="the switch came while it ran")
    (user,) = bench.uses().of("a", bench.old.snapshot)
    assert user.sentence == "pod default/p mounts it"
    bench.runs("p", bench.switched + HOUR)
    eventually(bench.in_use, ["new"].__eq__, what="its container began anew, after the switch")
    bench.status("p", phase="Succeeded")
    eventually(bench.in_use, [].__eq__, what="it has ended")


def test_a_pod_that_mounts_a_snapshot_uses_that_one(bench: Bench) -> None:
    bench.pod("p", f"models/a/{bench.old.snapshot}")
    eventually(bench.in_use, ["old"].__eq__)
    bench.cluster.kubectl("delete", "pod", "p", "--wait=false")
    eventually(bench.in_use, [].__eq__)


def test_while_the_api_server_is_away_nothing_may_go(bench: Bench) -> None:
    eventually(lambda: bench.uses().may_go("a", bench.old.snapshot))
    bench.cluster.stop_api_server()
    eventually(lambda: bench.uses().unknown, what="that it is not known")
    assert not bench.uses().may_go("a", bench.old.snapshot)
    bench.cluster.start_api_server()
    eventually(lambda: bench.uses().may_go("a", bench.old.snapshot), timeout=60)
