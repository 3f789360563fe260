"""A real `modelcache controller` in a process of its own, with the rights that it is to have."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.agent import DaemonProcess
from tests.support.cluster.plane import ControlPlane
from tests.support.manifests import FOLDER, load, one, patches

NAMESPACE = "modelcache-system"
ACCOUNT = "modelcache-controller"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"


class ControllerProcess(DaemonProcess):
    """`modelcache controller`, as its ServiceAccount."""

    started = "controller.started"

    def __init__(self, kubeconfig: Path, identity: str, *flags: str) -> None:
        self.identity = identity
        super().__init__(
            "controller",
            *("--kubeconfig", kubeconfig, "--identity", identity, "--status-seconds", "0.5"),
            *flags,
        )

    def wait_leading(self, timeout: float = 40.0) -> None:
        """Wait until it leads."""
        self.wait_for_event("controller.leads", timeout)

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Values by the metric's name and its labels' values, in the order of the labels' names."""
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.get("/metrics"))
            for sample in family.samples
        }


def controller_account(cluster: ControlPlane) -> Path:
    """A kubeconfig of the controller's ServiceAccount, with the rights that the manifests give."""
    documents = load(FOLDER / "base" / "controller-rbac.yaml")
    (component,) = load(FOLDER / "components" / "startup-taint" / "kustomization.yaml")
    for target, step in patches(component):
        if target["kind"] == "ClusterRole":
            one(documents, "ClusterRole", target["name"])["rules"].append(step["value"])
    # Where a server of version 1.20 wants the Events that newer ones want in `default`.
    for document in [each for each in documents if each["metadata"].get("namespace") == "default"]:
        documents.append({**document, "metadata": {"name": ACCOUNT, "namespace": "kube-system"}})
    cluster.apply(*documents)
    return cluster.service_account_kubeconfig(NAMESPACE, ACCOUNT)
