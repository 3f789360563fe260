"""The control plane: started in seconds, ended for sure."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.cluster.access import Access, Object
from tests.support.cluster.auditing import POLICY, AuditLog
from tests.support.cluster.binaries import Binaries
from tests.support.cluster.certificates import Authority
from tests.support.cluster.hollow import HollowNode
from tests.support.cluster.processes import Program, free_port
from tests.support.cluster.waiting import eventually

SERVICES = "10.213.0.0/24"
SERVICE = "10.213.0.1"
"""The API server's own, the first of them."""


class ControlPlane(Access):
    """etcd, API server, controller manager and scheduler, on free ports of loopback.

    Its administrator is the user `admin`.
    """

    def __init__(self, binaries: Binaries, *, bind: str = "127.0.0.1") -> None:
        """`bind`: the API server's address; loopback but where pods are to reach it."""
        _remove_left_over()
        folder = Path(tempfile.mkdtemp(prefix=f"test-cluster-{os.getpid()}-"))
        authority = Authority(folder / "keys")
        self.port = free_port()
        super().__init__(f"https://{bind}:{self.port}", folder, binaries, authority)
        self._audit = AuditLog(folder / "audit.log")
        (folder / "audit.yaml").write_text(POLICY)
        users = folder / "tokens.csv"
        users.write_text(f"{self.admin_token},admin,admin,system:masters\n")
        tokens = authority.service_account_keys()
        self.serving = authority.server(
            "kube-apiserver",
            ["127.0.0.1", SERVICE, bind],
            ["localhost", "kubernetes.default", "kubernetes.default.svc"],
        )
        etcd, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self.etcd = self._program(
            "etcd",
            *("--data-dir", folder / "etcd", "--unsafe-no-fsync"),
            *("--listen-client-urls", etcd, "--advertise-client-urls", etcd),
            *("--listen-peer-urls", peer),
        )
        self.api_server = self._program(
            "kube-apiserver",
            *("--etcd-servers", etcd, "--secure-port", self.port),
            *("--bind-address", bind, "--advertise-address", "127.0.0.1"),
            *(
                "--tls-cert-file",
                self.serving.certificate,
                "--tls-private-key-file",
                self.serving.key,
            ),
            *("--token-auth-file", users, "--client-ca-file", self.ca),
            *("--authorization-mode", "Node,RBAC"),
            *("--enable-admission-plugins", "NodeRestriction,Priority"),
            *("--service-account-key-file", tokens.certificate),
            *("--service-account-signing-key-file", tokens.key),
            *("--service-account-issuer", "https://kubernetes.default.svc"),
            *("--service-cluster-ip-range", SERVICES, "--allow-privileged"),
            *("--audit-policy-file", folder / "audit.yaml"),
            *("--audit-log-path", folder / "audit.log"),
            # There is no kube-proxy: webhooks are called at their pods' addresses.
            "--enable-aggregator-routing",
        )
        # Their ports without TLS are gone since 1.24, and the flags with them.
        no_port = ("--port", "0") if binaries.minor < 24 else ()
        self.controllers = self._program(
            "kube-controller-manager",
            *("--kubeconfig", self.kubeconfig, "--use-service-account-credentials"),
            *("--service-account-private-key-file", tokens.key, "--root-ca-file", self.ca),
            # At its usual limits its many controllers take seconds more to begin.
            *("--kube-api-qps", 200, "--kube-api-burst", 400),
            *("--leader-elect=false", *no_port, "--secure-port", free_port()),
            *("--bind-address", "127.0.0.1", "--cert-dir", folder / "keys"),
        )
        self.scheduler = self._program(
            "kube-scheduler",
            *("--kubeconfig", self.kubeconfig),
            *("--leader-elect=false", *no_port, "--secure-port", free_port()),
            *("--bind-address", "127.0.0.1", "--cert-dir", folder / "keys"),
        )
        self._programs = [self.etcd, self.api_server, self.controllers, self.scheduler]
        self.hollow: list[HollowNode] = []
        self._was_away = False

    def __enter__(self) -> Self:
        try:
            self.etcd.start()
            self.start_api_server()
            self.controllers.start()
            self.scheduler.start()
            self.await_service_account("default")
        except BaseException as error:
            for program in self._programs:
                if program.log.exists():
                    error.add_note(f"{program.name} said last:\n{program.tail(15)}")
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything that was started, and forget all of it."""
        for node in self.hollow:
            node.close()
        for program in reversed(self._programs):
            program.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def pids(self) -> list[int]:
        """The processes of all programs and hollow nodes."""
        return [*(one.pid for one in self._programs), *(node.pid for node in self.hollow)]

    def memory(self) -> dict[str, int]:
        """The resident bytes of each program."""
        return {program.name: program.resident_bytes() for program in self._programs}

    # Outages

    def start_api_server(self) -> None:
        """Start it, for the first time or again, on the same port; returns when it answers."""
        self.api_server.start()

        def answers() -> str:
            return str(self.read("/readyz")) if self.api_server.running else "ended"

        seen = eventually(answers, ("ok", "ended").__contains__, timeout=60, what="the API server")
        assert seen == "ok", f"the API server ended:\n{self.api_server.tail()}"

    def stop_api_server(self) -> None:
        """SIGKILL, as a crash."""
        self._was_away = True
        self.api_server.kill()

    @contextmanager
    def hanging_api_server(self) -> Iterator[None]:
        """Connections are taken, and nothing is answered."""
        self._was_away = True
        self.api_server.pause()
        try:
            yield
        finally:
            self.api_server.resume()

    def recover(self) -> None:
        """After an outage: everything answers at once again.

        By themselves the controllers and the scheduler see nothing new for a while: client-go's
        informers list again after pauses that double up to 30 s, and jitter doubles those.
        """
        if not self.api_server.running:
            self.start_api_server()
        if self._was_away:
            for program in (self.controllers, self.scheduler):
                program.kill()
                program.start()
            self._was_away = False

    # Nodes

    def hollow_node(
        self, name: str, labels: Mapping[str, str] | None = None, taints: Sequence[str] = ()
    ) -> HollowNode:
        """A node that is Ready and reports its pods as running, without any container.

        `labels` and `taints` (`key=value:effect`) are those that it registers itself with.
        """
        node = self.start_hollow_node(name, labels, taints)
        self.await_ready(name)
        return node

    def start_hollow_node(
        self, name: str, labels: Mapping[str, str] | None = None, taints: Sequence[str] = ()
    ) -> HollowNode:
        """The same, without waiting until it is Ready."""
        kubeconfig = self.kubeconfig_for(f"system:node:{name}", ["system:nodes"])
        node = HollowNode(self.binaries, self.folder, kubeconfig, name, labels or {}, taints)
        self.hollow.append(node)
        node.start()
        return node

    def await_ready(self, *names: str, timeout: float = 60.0) -> None:
        """Wait until all these nodes are Ready, and schedulable but for their own taints."""

        def ready(node: Object) -> bool:
            conditions = node["status"].get("conditions", ())
            taints = node["spec"].get("taints", ())
            return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions) and all(
                taint["key"] != "node.kubernetes.io/not-ready" for taint in taints
            )

        def all_ready(nodes: list[Object]) -> bool:
            return {*names} <= {node["metadata"]["name"] for node in nodes if ready(node)}

        self.watch_until("/api/v1/nodes", all_ready, timeout)

    def remove_hollow_node(self, node: HollowNode) -> None:
        """End it, and delete its Node."""
        node.close()
        self.hollow.remove(node)
        self.kubectl("delete", "node", node.name, "--ignore-not-found", "--wait=false")

    def plain_node(self, name: str, labels: Mapping[str, str] | None = None) -> Object:
        """A Node object that no kubelet is behind; a hollow node of that name is gone then."""
        for hollow in [each for each in self.hollow if each.name == name]:
            self.remove_hollow_node(hollow)
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
        node["metadata"] = {"name": name, "labels": dict(labels or {})}
        return self.api("/api/v1/nodes", "POST", node)

    def label_node(self, name: str, labels: Mapping[str, str | None]) -> None:
        """Change a node's labels; None takes one off."""
        patch = {"metadata": {"labels": dict(labels)}}
        self.api(f"/api/v1/nodes/{name}", "PATCH", patch, "merge-patch+json")

    def node_labels(self, name: str) -> dict[str, str]:
        """A node's labels."""
        found: dict[str, str] = self.api(f"/api/v1/nodes/{name}")["metadata"].get("labels", {})
        return found

    def await_service_account(self, namespace: str) -> None:
        """Wait until pods can be created in a namespace that is new: with their account's token,
        which up to 1.23 is a Secret that comes a moment after the account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        eventually(
            lambda: self.find(path) or {},
            lambda account: "secrets" in account or (account and self.binaries.minor >= 24),
            what=path,
        )

    # What was asked of it

    def requests(self, **wanted: str) -> list[dict[str, Any]]:
        """The requests that fit, as the audit log has them: by `user`, `verb`, `resource`, `name`
        and `subresource`. See `AuditLog`."""
        return self._audit.requests(**wanted)

    def _program(self, name: str, *flags: str | int | Path) -> Program:
        return Program(name, [self.binaries[name], *map(str, flags)], self.folder)


def _remove_left_over() -> None:
    """What tests could not remove that were killed."""
    for folder in Path(tempfile.gettempdir()).glob("test-cluster-*"):
        owner = re.fullmatch(r"test-cluster-(\d+)-.*", folder.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            shutil.rmtree(folder, ignore_errors=True)
