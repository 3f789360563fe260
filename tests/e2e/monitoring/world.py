"""All programs of a small cluster, each scraped by a real Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.component.service.compilecache.place import IMAGE_DIGEST, Bench
from tests.support import environment
from tests.support.agent import AgentProcess, DaemonProcess
from tests.support.cluster.fixtures import NAMESPACE, clear
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.processes import free_port
from tests.support.cluster.waiting import eventually
from tests.support.controller import ControllerProcess
from tests.support.hub import HubServer
from tests.support.prometheus import Prometheus
from tests.support.sysfs import Machine
from tests.support.tuner import TunerProcess
from tests.support.webhook import IMAGE, WebhookProcess, webhook_documents

CLUSTER = "story"
FIRST, SECOND = "node-1", "node-2"
STARTUP_TAINT = {"key": "modelcache.dev/not-ready", "effect": "NoSchedule"}
PODS = "/api/v1/namespaces/default/pods"
DISK = "259:1"
"""The bdi of the first node's disk, of which the tuner sees a small sysfs."""

_WEBHOOKS_OWN = (
    f"/api/v1/namespaces/{NAMESPACE}/secrets/modelcache-webhook-tls",
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/modelcache-webhook",
)


class WarmerProcess(DaemonProcess):
    """`modelcache warm --daemon`."""

    started = "warmer.started"


class World:
    """Two nodes, and all that runs on them and beside. `node-1` has little room."""

    def __init__(
        self,
        plane: ControlPlane,
        hub: HubServer,
        mirror: HubServer,
        folder: Path,
        rules: Sequence[Path],
        stack: ExitStack,
    ) -> None:
        self.plane = plane
        self.hub = hub
        self.mirror = mirror
        self.folder = folder
        self.bench = Bench(folder)
        self.machine = self._machine()
        self.prometheus = Prometheus(folder / "prometheus", rules)
        self._stack = stack
        self.scraped: set[tuple[str, str]] = set()
        """Job and node of each program that Prometheus knows of."""
        self._ports: dict[str, int] = {}
        for node in (FIRST, SECOND):
            plane.plain_node(node, {"kubernetes.io/hostname": node})
        path = "/api/v1/namespaces/default/serviceaccounts"
        if plane.find(f"{path}/engine") is None:
            plane.api(path, "POST", {"metadata": {"name": "engine"}})

    # Programs

    def start_prometheus(self) -> None:
        """From here on it is known what happens."""
        self._stack.enter_context(self.prometheus)

    def agent(self, node: str, *flags: str) -> AgentProcess:
        """Start a node's agent; always on the same port, as a pod of a DaemonSet has it."""
        port = self._ports.setdefault(node, free_port())
        agent = AgentProcess(
            self.folder / node,
            None,
            *("--cluster", "--kubeconfig", str(self.plane.kubeconfig), "--node-name", node),
            *("--listen", f"127.0.0.1:{port}", "--compile-listen", "127.0.0.1:0"),
            *("--signing-key", str(self.bench.private), "--file-roots", str(self.folder)),
            *("--report-seconds", "1", "--residency-seconds", "1", "--keep-free", "0"),
            *("--start-jitter", "0s", "--delete-unwanted-after", "1s", *flags),
            env={"HF_ENDPOINT": self.hub.url},
        )
        return self._stack.enter_context(agent)

    def controller(self) -> ControllerProcess:
        """Start the controller."""
        return self._stack.enter_context(ControllerProcess(self.plane.kubeconfig, "one"))

    def webhook(self) -> WebhookProcess:
        """Start the webhook."""
        documents, _ = webhook_documents()
        self.plane.apply(*documents)
        root = str(self.folder / FIRST)
        running = WebhookProcess(self.plane.kubeconfig, "--image", IMAGE, "--root", root)
        return self._stack.enter_context(running)

    def tuner(self) -> TunerProcess:
        """Start the first node's tuner."""
        where = ("--sys", self.machine.sys, "--mountinfo", self.machine.mountinfo)
        state = self.folder / "tuner"
        running = TunerProcess("path:/mnt/nvme=4096", state, *where, interval="1s")
        return self._stack.enter_context(running)

    def warmer(self) -> WarmerProcess:
        """Start the first node's warmer."""
        running = WarmerProcess(
            *("warm", "--daemon", "--root", str(self.folder / FIRST), "--memory", "20Mi"),
            *("--keep-memory", "0", "--seconds", "1"),
        )
        return self._stack.enter_context(running)

    def watch(self, program: str, running: DaemonProcess, node: str) -> None:
        """Have Prometheus scrape a program, once it listens; with the labels of the PodMonitors."""
        job = f"modelcache-{program}"
        self.scraped.add((job, node))
        self.prometheus.scrape(job, running.url, cluster=CLUSTER, node=node)

    def _machine(self) -> Machine:
        folder = self.folder / "machine"
        folder.mkdir()
        machine = Machine(folder)
        machine.disk("pci0000:00/0000:00:1f.0/nvme/nvme1/nvme1n1", DISK)
        machine.mount("8:1", "/", "ext4", "/dev/sda1")
        machine.mount(DISK, "/mnt/nvme", "ext4", "/dev/nvme1n1")
        return machine

    @property
    def read_ahead(self) -> Path:
        """The attribute of the first node's disk."""
        return self.machine.sys / "devices/virtual/bdi" / DISK / "read_ahead_kb"

    # What people and other programs do

    def pod(
        self,
        name: str,
        node: str,
        annotations: Mapping[str, str],
        labels: Mapping[str, str] | None = None,
        mounts: Path | None = None,
    ) -> dict[str, Any]:
        """Make a pod on a node, as the publisher of compile caches."""
        volumes, where = [], []
        if mounts is not None:
            volumes = [{"name": "v", "hostPath": {"path": str(mounts)}}]
            where = [{"name": "v", "mountPath": "/m"}]
        image = f"registry.example/engine@{IMAGE_DIGEST}"
        container = {"name": "engine", "image": image, "volumeMounts": where}
        given = {f"modelcache.dev/{key}": value for key, value in annotations.items()}
        body = {
            "metadata": {"name": name, "annotations": given, "labels": dict(labels or {})},
            "spec": {
                "nodeName": node,
                "serviceAccountName": "engine",
                "terminationGracePeriodSeconds": 0,
                "containers": [container],
                "volumes": volumes,
            },
        }
        return self.plane.api(PODS, "POST", body)

    def token(self, pod: Mapping[str, Any]) -> str:
        """A pod's token for its node's agent."""
        meta = pod["metadata"]
        bound = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
        spec = {"audiences": ["modelcache.dev"], "boundObjectRef": bound}
        path = "/api/v1/namespaces/default/serviceaccounts/engine/token"
        answer = self.plane.api(path, "POST", {"spec": spec})
        return str(answer["status"]["token"])

    def compile_address(self, agent: AgentProcess) -> tuple[str, int]:
        """Where a node's pods bring what they have compiled."""
        host, _, port = agent.wait_for_event("agent.started")["compile_listen"].rpartition(":")
        return host, int(port)

    def blob(self, node: str, digest: str) -> Path:
        """Where a node has a file's content."""
        return self.folder / node / "blobs" / "sha256" / digest[:2] / digest

    def await_taint_gone(self, node: str) -> None:
        """Wait until the controller has taken the startup taint off a node."""
        key = STARTUP_TAINT["key"]
        eventually(
            lambda: self.plane.api(f"/api/v1/nodes/{node}")["spec"].get("taints", []),
            lambda taints: key not in {taint["key"] for taint in taints},
            what="a node without the startup taint",
        )

    def taint(self, node: str) -> None:
        """A node that is new."""
        patch = {"spec": {"taints": [STARTUP_TAINT]}}
        self.plane.api(f"/api/v1/nodes/{node}", "PATCH", patch, "merge-patch+json")


@contextmanager
def world(plane: ControlPlane, folder: Path, rules: Sequence[Path] = ()) -> Iterator[World]:
    """A world without any program; Prometheus is not started. At the end the cluster is clear."""
    try:
        with (
            pytest.MonkeyPatch.context() as monkeypatch,
            HubServer() as hub,
            HubServer(hosts=("127.0.0.3", "127.0.0.3")) as mirror,
            ExitStack() as stack,
        ):
            environment.clean(monkeypatch, folder)
            yield World(plane, hub, mirror, folder, rules, stack)
    finally:
        for path in _WEBHOOKS_OWN:
            if plane.find(path) is not None:
                plane.api(path, "DELETE")
        clear(plane)
