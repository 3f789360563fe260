"""Real nodes with the project's image, and its manifests applied."""

from __future__ import annotations

import json
import re
import shutil
import time
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
_PAGE = REPOSITORY / "docs" / "affinity.md"
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
    overlay: Path
    """The kustomization that was applied."""
    cleanup: Path
    """The one that is, before that is deleted."""

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
def world(
    folder: Path,
    *,
    components: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    patches: Sequence[Mapping[str, Any]] = (),
) -> Iterator[World]:
    """All of it but nodes; with components, settings and patches besides those of the overlay."""
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
        ours = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", **(settings or {})}
        # Beside it, since a kustomization names others by relative paths.
        shutil.copytree(REPOSITORY / "daemonset", folder / "daemonset")
        write_overlay(folder, ours, components, patches)
        write_cleanup(folder / "cleanup")
        eventually(lambda: plane.kubectl("apply", "-k", folder), what="the manifests")
        yield World(plane, network, hub, archive, folder, folder / "cleanup")


def write_overlay(
    folder: Path,
    settings: Mapping[str, str],
    components: Sequence[str] = (),
    patches: Sequence[Mapping[str, Any]] = (),
) -> None:
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
        "components": [f"daemonset/components/{name}" for name in components],
        "patches": [*({"target": {"kind": kind}, "patch": removal} for kind in kinds), *patches],
    }
    (folder / "events.json").write_text(json.dumps(_events_of_old()))
    (folder / "kustomization.yaml").write_text(json.dumps(document))


def write_cleanup(folder: Path) -> None:
    """The cleanup, as a user changes it: it waits less for pods to end.

    Now and then a kubelet of 1.20 keeps the sandbox of an ended pod, and so the pod, for a minute.
    """
    variable = {"name": "MODELCACHE_AGENTS_END", "value": "30s"}
    place = "/spec/template/spec/containers/0/env/-"
    patch = json.dumps([{"op": "add", "path": place, "value": variable}])
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../daemonset/cleanup"],
        "patches": [{"target": {"kind": "Job"}, "patch": patch}],
    }
    folder.mkdir()
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
    cluster: World,
    name: str,
    node: str | None,
    model: str,
    revision: str,
    affinity: str = "preferred",
) -> dict[str, Any]:
    """A pod as a user writes it: one that reads org/MODEL by huggingface_hub, on one node or where
    the scheduler wants."""
    script = _READER.format(repository=f"org/{model}", revision=revision)
    annotations = {"modelcache.dev/model": model, "modelcache.dev/affinity": affinity}
    # As Pod Security `restricted` wants it.
    unprivileged = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    env = {"HF_ENDPOINT": cluster.hub.url, "HF_HUB_USER_AGENT_ORIGIN": name}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {
            "restartPolicy": "Never",
            "nodeSelector": {"kubernetes.io/hostname": node} if node else {},
            "securityContext": {
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "reader",
                    "image": IMAGE,
                    "imagePullPolicy": "Never",
                    "command": ["/opt/modelcache/bin/python3", "-c", script],
                    "env": [{"name": key, "value": value} for key, value in env.items()],
                    "securityContext": unprivileged,
                }
            ],
        },
    }


def by_claim(cluster: World, pod: dict[str, Any], model: str) -> None:
    """Have a pod read a model by a claim, as docs/affinity.md says; it is bound then."""
    plane, namespace = cluster.plane, pod["metadata"]["namespace"]
    text = _PAGE.read_text().replace("llama-3-8b", model).replace("/var/lib/modelcache", ROOT)
    text = text.replace("team-a", namespace)
    _, section = text.split("## Namespaces under Pod Security")
    blocks = re.findall(r"^```yaml\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    volume, claim, part = (each for block in blocks for each in yaml.safe_load_all(block))
    pod["spec"]["volumes"] = part["spec"]["volumes"]
    (theirs,) = part["spec"]["containers"]
    (container,) = pod["spec"]["containers"]
    container["volumeMounts"] = theirs["volumeMounts"]
    container["env"] += theirs["env"]
    plane.apply(volume, claim)
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim['metadata']['name']}"

    def phase() -> str:
        # After a conflict the binder looks again in fifteen seconds, or when the claim changes.
        change = {"metadata": {"annotations": {"looked-at": str(time.monotonic())}}}
        found = plane.api(path, "PATCH", change, "merge-patch+json")
        return str(found["status"]["phase"])

    eventually(phase, lambda found: found == "Bound", what="the claim", pause=0.5)


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
    eventually(
        lambda: create(cluster, pod, dry_run=True)[0]["spec"],
        lambda spec: any("hostPath" in volume for volume in spec["volumes"]),
        timeout=90,
        what="the webhook",
    )
    return pod


def create(
    cluster: World, pod: dict[str, Any], *, dry_run: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """A pod as the API server has it from then on, or would, and its warnings."""
    path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods"
    with cluster.plane.open(f"{path}?dryRun=All" if dry_run else path, "POST", pod) as answer:
        return json.loads(answer.read()), answer.headers.get_all("Warning") or []


@dataclass(frozen=True)
class Reading:
    """What a reader pod found, what its huggingface_hub asked the Hub for, and what it was."""

    digest: str
    path: str
    uid: int
    offline: str
    asked: list[str]
    spec: dict[str, Any]


def read(cluster: World, node: RealKubelet, pod: dict[str, Any]) -> Reading:
    """Run a reader pod to its end, on this node."""
    plane, namespace, name = cluster.plane, pod["metadata"]["namespace"], pod["metadata"]["name"]
    create(cluster, pod)
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    ended = eventually(
        lambda: plane.api(path),
        lambda found: found["status"]["phase"] in ("Succeeded", "Failed"),
        timeout=60,
        what=f"the end of {name}",
    )
    assert ended["spec"]["nodeName"] == node.name
    output = node.logs(namespace, name, "reader")
    assert ended["status"]["phase"] == "Succeeded", output or ended["status"]
    asked = [
        request.path
        for request in cluster.hub.requests
        if request.headers.get("user-agent", "").endswith(f"; origin/{name}")
    ]
    said = json.loads(output.strip().splitlines()[-1])
    return Reading(**said, asked=asked, spec=ended["spec"])


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


def processes(node: RealKubelet, command: str) -> list[dict[str, str]]:
    """What /proc says of the node's processes whose command line ends so."""
    script = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; cat $p/status; echo; done"
    found = []
    for text in node.run("sh", "-c", f"{script} 2>/dev/null").split("\n\n"):
        line, *rest = text.strip().splitlines() or [""]
        if line.strip().endswith(command):
            found.append(dict(part.split(":\t", 1) for part in rest if ":\t" in part))
    return found
