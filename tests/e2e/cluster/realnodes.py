"""Real nodes with the project's image, and its manifests applied."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.agent import modelcache
from tests.support.cluster import image
from tests.support.cluster.binaries import find_binaries
from tests.support.cluster.fixtures import NAMESPACE, REPOSITORY
from tests.support.cluster.kubelet import NEEDS, PLUGINS, RealKubelet
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.podnetwork import PodNetwork
from tests.support.cluster.waiting import eventually
from tests.support.hub import HubServer

ROOT = "/mnt/nvme/modelcache"
IMAGE = "modelcache/agent:dev"
AGENT_ID = 65532
TAINT = "modelcache.dev/not-ready"
DEADLINE = 90
"""Seconds after a node's creation at which the startup taint goes in any case."""


@dataclass(frozen=True)
class World:
    """A control plane with everything of ours, on a network with a Hub."""

    plane: ControlPlane
    network: PodNetwork
    hub: HubServer
    image: Path

    def node(
        self, name: str, *, labels: Mapping[str, str] | None = None, taints: Sequence[str] = ()
    ) -> RealKubelet:
        """A node that knows the image."""
        return RealKubelet(
            self.plane, self.network, name, images=[self.image], labels=labels, taints=taints
        )


def needed() -> str:
    """What is missing for a real node, in one line; empty where nothing is."""
    missing = [name for name in (*NEEDS, *image.NEEDS) if shutil.which(name) is None]
    if not PLUGINS.is_dir():
        missing.append(str(PLUGINS))
    binaries = find_binaries()
    if binaries is None or not binaries.has("kubelet"):
        missing.append("kubelet (run `make cluster`)")
    return ", ".join(missing)


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """All of it but nodes."""
    binaries = find_binaries()
    if missing := needed():
        pytest.skip(f"a real node needs what is not here: {missing}")
    assert binaries is not None
    archive = image.built_image()
    with (
        PodNetwork() as network,
        ControlPlane(binaries, bind=network.host) as plane,
        HubServer(hosts=(network.host, network.second_host)) as hub,
    ):
        plane.kubectl("apply", "-k", REPOSITORY / "daemonset" / "crds")
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all")
        write_overlay(folder, {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"})
        eventually(lambda: plane.kubectl("apply", "-k", folder), what="the manifests")
        yield World(plane, network, hub, archive)


def write_overlay(folder: Path, settings: Mapping[str, str]) -> None:
    """The overlay for nodes with a disk of their own, as a user changes it: other settings.

    A cluster of 1.20 knows neither admission policies nor disruption budgets of version 1, and
    takes events of nodes in kube-system only.
    """
    kinds = (
        *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
        "PodDisruptionBudget",
    )
    removal = "$patch: delete\napiVersion: v1\nkind: any\nmetadata: {name: any}\n"
    ours = {
        "MODELCACHE_STARTUP_DEADLINE": f"{DEADLINE}s",
        "MODELCACHE_REPORT_SECONDS": "1",
        **settings,
    }
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["daemonset/overlays/generic-nvme", "events.json"],
        "configMapGenerator": [
            {
                "name": "modelcache-settings",
                "namespace": NAMESPACE,
                "behavior": "merge",
                "literals": [f"{key}={value}" for key, value in ours.items()],
            }
        ],
        "patches": [{"target": {"kind": kind}, "patch": removal} for kind in kinds],
    }
    # Beside it, since a kustomization names others by relative paths.
    shutil.copytree(REPOSITORY / "daemonset", folder / "daemonset")
    (folder / "events.json").write_text(json.dumps(_events_of_old()))
    (folder / "kustomization.yaml").write_text(json.dumps(document))


def _events_of_old() -> dict[str, Any]:
    rbac = "rbac.authorization.k8s.io"
    accounts = ("modelcache-agent", "modelcache-controller")
    metadata = {"name": "modelcache-events", "namespace": "kube-system"}
    rule = {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]}
    role = {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]}
    binding = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": metadata["name"]},
        "subjects": [
            {"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE} for name in accounts
        ],
    }
    return {"apiVersion": "v1", "kind": "List", "items": [role, binding]}


_READER = """
import json, os
from hashlib import sha256
from pathlib import Path
from huggingface_hub import snapshot_download

folder = Path(snapshot_download({repository!r}, revision={revision!r}))
weights = folder / "model.safetensors"
print(json.dumps({{
    "digest": sha256(weights.read_bytes()).hexdigest(),
    "path": os.path.realpath(weights),
    "uid": os.getuid(),
    "offline": os.environ.get("HF_HUB_OFFLINE", ""),
}}))
"""


def reader_pod(
    cluster: World, name: str, node: str, model: str, revision: str, affinity: str = "preferred"
) -> dict[str, Any]:
    """A pod as a user writes it: one that reads org/MODEL by huggingface_hub, on one node."""
    script = _READER.format(repository=f"org/{model}", revision=revision)
    annotations = {"modelcache.dev/model": model, "modelcache.dev/affinity": affinity}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {
            "restartPolicy": "Never",
            "nodeSelector": {"kubernetes.io/hostname": node},
            "containers": [
                {
                    "name": "reader",
                    "image": IMAGE,
                    "imagePullPolicy": "Never",
                    "command": ["/opt/modelcache/bin/python3", "-c", script],
                    "env": [{"name": "HF_ENDPOINT", "value": cluster.hub.url}],
                }
            ],
        },
    }


def injected(folder: Path, pod: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """The pod as `modelcache inject` makes it, without asking anybody."""
    path, models = folder / "pod.json", folder / "models.yaml"
    path.write_text(json.dumps(pod))
    models.write_text(json.dumps(model))
    done = modelcache("inject", "-f", path, "--models", models, "--root", ROOT, "--image", IMAGE)
    assert done.returncode == 0, done.stderr
    (found,) = yaml.safe_load_all(done.stdout)
    assert found["spec"]["volumes"], done.stderr
    return dict(found)


def asking_webhook(cluster: World, pod: dict[str, Any]) -> dict[str, Any]:
    """The pod with the label that the webhook is called for, which it answers from now on."""
    pod["metadata"]["labels"] = {"modelcache.dev/inject": "true"}
    trial = json.dumps(pod)

    def as_created() -> dict[str, Any]:
        said = cluster.plane.kubectl(
            *("create", "--dry-run=server", "-o", "json", "-f", "-"), stdin=trial
        )
        return dict(json.loads(said)["spec"])

    eventually(
        as_created,
        lambda spec: any("hostPath" in volume for volume in spec["volumes"]),
        timeout=90,
        what="the webhook",
    )
    return pod


@dataclass(frozen=True)
class Reading:
    """What a reader pod found, and what its huggingface_hub asked the Hub for meanwhile."""

    digest: str
    path: str
    uid: int
    offline: str
    asked: list[str]


def read(cluster: World, node: RealKubelet, pod: dict[str, Any]) -> Reading:
    """Run a reader pod to its end."""
    plane, name = cluster.plane, pod["metadata"]["name"]
    cluster.hub.clear_requests()
    plane.apply(pod)
    path = f"/api/v1/namespaces/default/pods/{name}"
    phase = eventually(
        lambda: plane.api(path)["status"]["phase"],
        lambda phase: phase in ("Succeeded", "Failed"),
        timeout=60,
        what=f"the end of {name}",
    )
    output = node.logs("default", name, "reader")
    assert phase == "Succeeded", output
    asked = [
        request.path
        for request in cluster.hub.requests
        if "hf_hub" in request.headers.get("user-agent", "")
    ]
    return Reading(**json.loads(output.strip().splitlines()[-1]), asked=asked)


def agent_pod(plane: ControlPlane, node: str) -> dict[str, Any]:
    """The agent's pod on a node; empty where there is none."""
    pods = plane.api(
        f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app.kubernetes.io/component=agent"
        f"&fieldSelector=spec.nodeName={node}"
    )["items"]
    return dict(pods[0]) if pods else {}


def has_taint(plane: ControlPlane, node: str) -> bool:
    """Whether a node has the startup taint."""
    taints = plane.api(f"/api/v1/nodes/{node}")["spec"].get("taints", [])
    return any(taint["key"] == TAINT for taint in taints)
