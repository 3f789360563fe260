"""Compile caches in a cluster: two agents and a controller with their own rights, a real API
server, and a pod that brings what it has compiled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from modelcache.compilecache.bundles.local import LocalBundle
from tests.component.service.compilecache.place import IMAGE_DIGEST, Bench, compile_cache
from tests.component.service.compilecache.pods import put, start, tell
from tests.support.agent import AgentProcess
from tests.support.bundles import a_bundle
from tests.support.cluster.fixtures import NAMESPACE
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually
from tests.support.controller import ControllerProcess, controller_account
from tests.support.manifests import FOLDER, load, one, patches
from tests.support.podcaches import NAME, SidecarProcess
from tests.support.podcaches import pod as pod_without_kubelet

OURS = "/apis/modelcache.dev/v1alpha1"
ACCOUNT = "modelcache-agent"
LABEL = "modelcache.dev/compile.tiny"


def agent_account(cluster: ControlPlane) -> Path:
    """A kubeconfig with the rights of the base and of the component."""
    documents = load(FOLDER / "base" / "agent-rbac.yaml")
    (component,) = load(FOLDER / "components" / "compile-caches" / "kustomization.yaml")
    for target, step in patches(component):
        if target["kind"] == "ClusterRole":
            one(documents, "ClusterRole", target["name"])["rules"].append(step["value"])
    # Where a server of version 1.20 wants the Events that newer ones want in `default`.
    for document in [each for each in documents if each["metadata"].get("namespace") == "default"]:
        documents.append({**document, "metadata": {"name": ACCOUNT, "namespace": "kube-system"}})
    cluster.apply(*documents)
    return cluster.service_account_kubeconfig(NAMESPACE, ACCOUNT)


class Fleet:
    """Two nodes with an agent each, and a controller."""

    def __init__(self, cluster: ControlPlane, folder: Path, stack: ExitStack) -> None:
        self.cluster = cluster
        self.bench = Bench(folder)
        self.folder = folder
        self._stack = stack
        self._agents = agent_account(cluster)
        controller = ControllerProcess(controller_account(cluster), "one")
        stack.enter_context(controller)
        for account in ("engine", "other"):
            body = {"metadata": {"name": account}}
            path = "/api/v1/namespaces/default/serviceaccounts"
            if cluster.find(f"{path}/{account}") is None:
                cluster.api(path, "POST", body)
        self.nodes = {name: self._start(name) for name in ("n1", "n2")}
        cluster.apply(self.bench.cached_model())
        for agent in self.nodes.values():
            agent.wait_ready("m")
        self._numbers = iter(range(100))

    def _start(self, name: str) -> AgentProcess:
        if name not in {n["metadata"]["name"] for n in self.cluster.api("/api/v1/nodes")["items"]}:
            self.cluster.plain_node(name)
        agent = AgentProcess(
            self.folder / name,
            None,
            *("--cluster", "--kubeconfig", str(self._agents), "--node-name", name),
            *("--file-roots", str(self.folder), "--keep-free", "0", "--report-seconds", "1"),
            *("--signing-key", str(self.bench.private), "--compile-listen", "127.0.0.1:0"),
        )
        return self._stack.enter_context(agent)

    def address(self, node: str) -> tuple[str, int]:
        listen = self.nodes[node].wait_for_event("agent.started")["compile_listen"]
        host, _, port = listen.rpartition(":")
        return host, int(port)

    def pod(self, name: str, node: str, account: str = "engine", cache: str = "tiny") -> str:
        """Make a pod on a node; its token for us."""
        path = "/api/v1/namespaces/default/pods"
        image = f"registry.example/engine@{IMAGE_DIGEST}"
        made = self.cluster.api(
            path,
            "POST",
            {
                "metadata": {
                    "name": name,
                    "annotations": {"modelcache.dev/compile-cache": cache},
                },
                "spec": {
                    "nodeName": node,
                    "serviceAccountName": account,
                    "containers": [{"name": "engine", "image": image}],
                },
            },
        )
        return self.token(account, name, made["metadata"]["uid"])

    def token(self, account: str, pod: str, uid: str, audience: str = "modelcache.dev") -> str:
        path = f"/api/v1/namespaces/default/serviceaccounts/{account}/token"
        bound = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
        spec = {"audiences": [audience], "boundObjectRef": bound}
        answer = self.cluster.api(path, "POST", {"spec": spec})
        return str(answer["status"]["token"])

    def bundle(self, content: bytes = b"a") -> LocalBundle:
        return a_bundle(self.folder / f"made-{next(self._numbers)}", content)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.cluster.api(f"{OURS}/compilecaches/tiny")
        return found.get("status") or {}

    def labels(self) -> dict[str, str | None]:
        return {name: self.cluster.node_labels(name).get(LABEL) for name in self.nodes}

    def ready(self) -> str:
        return str(self.status().get("readyNodes"))


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.fixture
def fleet(cluster: ControlPlane, tmp_path: Path) -> Iterator[Fleet]:
    try:
        with ExitStack() as stack:
            yield Fleet(cluster, tmp_path, stack)
    finally:
        # What the manifests don't give, and other tests look that they don't.
        own = ("--namespace", "kube-system", "--ignore-not-found")
        cluster.kubectl("delete", "role,rolebinding", ACCOUNT, *own)


def test_what_one_pod_has_compiled_is_on_every_node_and_what_fails_is_withdrawn_from_all(
    fleet: Fleet,
) -> None:
    cluster = fleet.cluster
    publishers = [{"namespace": "default", "serviceAccount": "engine"}]
    cluster.apply(compile_cache(fleet.bench.uri, publishers=publishers))
    none = {"desired": 2, "ready": 0, "missing": 2, "failed": 0}
    eventually(lambda: fleet.status().get("nodes"), lambda nodes: nodes == none, what="no bundle")
    assert [each["reason"] for each in fleet.status()["conditions"]] == ["NothingPublished"]

    # Only a publisher, and only with a token for us.
    token = fleet.pod("p1", "n1")
    bundle = fleet.bundle()
    uid = cluster.api("/api/v1/namespaces/default/pods/p1")["metadata"]["uid"]
    plain = fleet.token("engine", "p1", uid, audience="https://kubernetes.default.svc")
    other = fleet.pod("q1", "n1", "other")
    eventually(
        lambda: put(fleet.address("n1"), "tiny", bundle, token=other).reason,
        lambda reason: reason == "NotAPublisher",
        what="the agent to see the pod",
    )
    assert put(fleet.address("n1"), "tiny", bundle, token=plain).reason == "NotAuthenticated"
    assert put(fleet.address("n2"), "tiny", bundle, token=token).reason == "OtherNode"

    answer = put(fleet.address("n1"), "tiny", bundle, token=token)
    assert answer.status == 201, answer.document
    digest = answer.document["digest"]

    eventually(fleet.labels, lambda found: all(found.values()), what="the label on both nodes")
    key = fleet.nodes["n2"].node()["status"]["compileCaches"][0]["key"]
    assert fleet.labels() == {"n1": key[:12], "n2": key[:12]}
    eventually(fleet.ready, lambda text: text == "2/2", what="2 of 2 in the status")
    (told,) = fleet.status()["bundles"]
    assert (told["digest"], told["key"], told["state"]) == (digest, key, "Published")
    assert told["bytes"] == bundle.statement.archive.size
    current = fleet.folder / "n2" / "compile" / "tiny" / "current"
    assert LocalBundle.open(current.resolve()).digest == digest

    # A start on the other node loads it.
    hit = start(digest, compile_milliseconds=100)
    second = fleet.pod("p2", "n2")
    eventually(
        lambda: tell(fleet.address("n2"), "tiny", hit, second).status,
        lambda status: status == 204,
    )
    eventually(
        lambda: [each["state"] for each in fleet.status()["bundles"]],
        lambda states: states == ["Verified"],
        what="verified",
    )

    # Three starts on one node can't load it: it is seeded nowhere any more.
    failing = start(digest, "Miss", failures=1, reason="LoadFailed", message="can't be loaded")
    for name in ("f1", "f2", "f3"):
        failed = fleet.pod(name, "n1")
        eventually(
            lambda failed=failed: tell(fleet.address("n1"), "tiny", failing, failed).status,  # type: ignore[misc]
            lambda status: status == 204,
        )
    eventually(
        lambda: [(each["state"], each["message"]) for each in fleet.status()["bundles"]],
        lambda states: states == [("Withdrawn", "can't be loaded")],
        what="withdrawn",
    )
    eventually(fleet.labels, lambda found: not any(found.values()), what="no label any more")
    assert not current.is_symlink()
    eventually(
        lambda: {
            each["reason"]
            for each in cluster.api("/apis/events.k8s.io/v1/events")["items"]
            if each["note"].startswith("tiny: ")
        },
        lambda reasons: reasons >= {"CompileCacheReady", "CompileCacheWithdrawn"},
        what="the events",
    )


def test_an_object_that_is_changed_and_changed_back_counts_as_it_did(fleet: Fleet) -> None:
    cache = compile_cache(fleet.bench.uri)
    fleet.bench.root = fleet.folder / "n1"
    bundle = fleet.bench.publish(fleet.bench.key(cache))
    fleet.cluster.apply(cache)
    eventually(fleet.ready, lambda text: text == "2/2")
    other = compile_cache(fleet.bench.uri, engine={"image": f"r/e@sha256:{'8' * 64}"})
    fleet.cluster.apply(other)
    eventually(
        fleet.status,
        lambda status: status["nodes"]["missing"] == 2 and status["observedGeneration"] == 2,
        what="both nodes to have nothing for the other image",
    )
    assert not any(fleet.labels().values())
    fleet.cluster.apply(cache)
    eventually(
        fleet.status,
        lambda status: status["readyNodes"] == "2/2" and status["observedGeneration"] == 3,
        what="both nodes again",
    )
    (told,) = fleet.status()["bundles"]
    assert told["digest"] == bundle.digest


def test_a_restart_keeps_the_label_and_one_bad_object_holds_no_other_up(fleet: Fleet) -> None:
    cache = compile_cache(fleet.bench.uri)
    fleet.bench.root = fleet.folder / "n1"
    fleet.bench.publish(fleet.bench.key(cache))
    gone = compile_cache(f"file://{fleet.folder}/no-such-place", "gone")
    fleet.cluster.apply(cache, gone)
    eventually(fleet.ready, lambda text: text == "2/2")
    eventually(
        lambda: fleet.cluster.api(f"{OURS}/compilecaches/gone")["status"]["nodes"]["failed"],
        lambda failed: failed == 2,
    )
    fleet.nodes["n1"].terminate()
    with fleet._start("n1") as again:
        again.wait_for_event("compile_cache.failed", compile_cache="gone")
        node = json.loads(again.get("/v1/node"))
        reports = {each["name"]: each["state"] for each in node["status"]["compileCaches"]}
        assert reports == {"tiny": "Ready", "gone": "Failed"}
        # None was taken off, not even for a moment.
        assert "node.labelled" not in [each["event"] for each in again.events]
    assert fleet.labels()["n1"]


def test_a_sidecar_hands_over_what_its_engine_compiled_and_a_pod_elsewhere_begins_with_it(
    fleet: Fleet, tmp_path: Path
) -> None:
    """The pods' own programs at both ends; only kubelet is played by the test."""
    files = {"graphs/one.py": b"one" * 1000, "graphs/two.so": b"two" * 1000}
    publishers = [{"namespace": "default", "serviceAccount": "engine"}]
    with pod_without_kubelet(tmp_path / "pod") as pod:
        engine = {"cacheDir": str(pod.cache_dir)}
        spec: dict[str, Any] = {"engine": engine, "publishers": publishers}
        fleet.cluster.apply(compile_cache(fleet.bench.uri, NAME, **spec))
        token = tmp_path / "token"
        token.write_text(fleet.pod("p1", "n1", cache=NAME))
        _, port = fleet.address("n1")
        with SidecarProcess(pod, port, token) as sidecar:
            pod.engine.compiles(files)
            pod.engine.serves()
            assert sidecar.process.wait(60) == 0, sidecar.log
        label = f"modelcache.dev/compile.{NAME}"
        eventually(
            lambda: fleet.cluster.node_labels("n2").get(label), what="the label on the other node"
        )
        assert not list(pod.work.glob("staging/*"))
        # On the other node, in a pod of its own with the same path.
        shutil.rmtree(pod.cache_dir)
        pod.cache_dir.mkdir()
        pod.bundles = fleet.folder / "n2" / "compile"
        pod.seed()
        assert content(pod.cache_dir) == files
        (pod.work / "capture.json").unlink()
        token.write_text(fleet.pod("p2", "n2", cache=NAME))
        _, port = fleet.address("n2")
        pod.engine.loads()
        with SidecarProcess(pod, port, token) as sidecar:
            assert sidecar.process.wait(60) == 0, sidecar.log
    path = f"{OURS}/compilecaches/{NAME}"
    eventually(
        lambda: [each["state"] for each in fleet.cluster.api(path)["status"]["bundles"]],
        lambda found: found == ["Verified"],
        what="verified",
    )
