"""Our monitors, and the pods that they are about, as Prometheus' service discovery finds these."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.manifests import FOLDER, Object, kustomizations, load, one, patches

Labels = Mapping[str, str]

NAMESPACE: Final = "modelcache-system"
PROMETHEUS_OPERATOR: Final = FOLDER / "components" / "prometheus-operator"
GKE: Final = FOLDER / "components" / "gke-monitoring"
JOBS: Final = {
    ("agent", "http"): "modelcache-agent",
    ("agent", "tuner-http"): "modelcache-tuner",
    ("agent", "warmer-http"): "modelcache-warmer",
    ("controller", "http"): "modelcache-controller",
    ("controller", "webhook-http"): "modelcache-webhook",
}
"""The program behind each named port of the pods of a component."""


def ports() -> dict[tuple[str, str, str], int]:
    """The ports of our workloads with all components: by pod, container and name."""
    found = {}
    for name in ("agent", "controller"):
        workload = load(FOLDER / "base" / f"{name}.yaml")
        kind = "DaemonSet" if name == "agent" else "Deployment"
        spec = one(workload, kind, f"modelcache-{name}")["spec"]["template"]
        labels = spec["metadata"]["labels"]
        assert labels["app.kubernetes.io/component"] == name
        containers = list(spec["spec"]["containers"])
        for kustomization in kustomizations().values():
            for target, step in patches(kustomization):
                if target.get("kind") == kind and step["path"].endswith("/containers/-"):
                    containers.append(step["value"])
        for container in containers:
            for port in container.get("ports", ()):
                found[name, container["name"], port["name"]] = port["containerPort"]
    return found


def discovered(folder: Path) -> Path:
    """A file of targets: what the role `pod` finds of our pods, and of one of somebody else's.

    The agents run on the node n1, the controllers on n2. Labels are those of
    https://prometheus.io/docs/prometheus/latest/configuration/configuration/#pod
    """
    groups = [
        _target(component, container, name, port)
        for (component, container, name), port in ports().items()
    ]
    groups.append(_target("agent", "engine", "http", 8000, app="somebody-elses"))
    groups.append(_target("cleanup", "cleanup", "http", 8080))
    path = folder / "pods.json"
    path.write_text(json.dumps(groups))
    return path


def _target(
    component: str, container: str, port: str, number: int, app: str = "modelcache"
) -> dict[str, Any]:
    node = "n1" if component == "agent" else "n2"
    labels = {
        "namespace": NAMESPACE,
        "pod_name": f"modelcache-{component}-x7k2p",
        "pod_node_name": node,
        "pod_ip": "10.0.0.7",
        "pod_ready": "true",
        "pod_phase": "Running",
        "pod_container_name": container,
        "pod_container_port_name": port,
        "pod_container_port_number": str(number),
        "pod_label_app_kubernetes_io_name": app,
        "pod_labelpresent_app_kubernetes_io_name": "true",
        "pod_label_app_kubernetes_io_component": component,
        "pod_labelpresent_app_kubernetes_io_component": "true",
    }
    return {
        "targets": [f"10.0.0.7:{number}"],
        "labels": {f"__meta_kubernetes_{name}": value for name, value in labels.items()},
    }


def as_the_operator_scrapes(monitor: Object) -> list[Object]:
    """The scrape configurations that the Prometheus Operator makes of a PodMonitor, without the
    discovery: its own relabelling, then the monitor's.

    As its documentation and its generated configurations have it (v0.82).
    """
    found = []
    for index, endpoint in enumerate(monitor["spec"]["podMetricsEndpoints"]):
        own: list[Object] = []
        for name, value in monitor["spec"]["selector"]["matchLabels"].items():
            label = re.sub(r"[^a-zA-Z0-9_]", "_", name)
            own.append(
                {
                    "action": "keep",
                    "source_labels": [
                        f"__meta_kubernetes_pod_label_{label}",
                        f"__meta_kubernetes_pod_labelpresent_{label}",
                    ],
                    "regex": f"({re.escape(value)});true",
                }
            )
        own += [
            {
                "action": "keep",
                "source_labels": ["__meta_kubernetes_pod_container_port_name"],
                "regex": endpoint["port"],
            },
            {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
            {
                "source_labels": ["__meta_kubernetes_pod_container_name"],
                "target_label": "container",
            },
            {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
            {
                "target_label": "job",
                "replacement": f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}",
            },
            {"target_label": "endpoint", "replacement": endpoint["port"]},
        ]
        ours = [_in_snake_case(each) for each in endpoint["relabelings"]]
        name = f"podMonitor/{NAMESPACE}/{monitor['metadata']['name']}/{index}"
        found.append({"job_name": name, "relabel_configs": own + ours})
    return found


def _in_snake_case(relabeling: Object) -> Object:
    return {re.sub(r"(?=[A-Z])", "_", key).lower(): value for key, value in relabeling.items()}


def with_targets_of_a_file(scrape: Object, files: Sequence[Path]) -> Object:
    """A scrape configuration with other targets: Debian's Prometheus knows no Kubernetes."""
    found = {key: value for key, value in scrape.items() if key != "kubernetes_sd_configs"}
    if files:
        found["file_sd_configs"] = [{"files": [str(path) for path in files]}]
    return found


def relabelled(scrapes: Sequence[Object], folder: Path) -> list[Labels]:
    """What Prometheus' own service discovery makes of our pods: the labels of each target that is
    scraped, by one of these configurations or several."""
    config = folder / "prometheus.yaml"
    pods = [discovered(folder)]
    whole = [with_targets_of_a_file(each, pods) for each in scrapes]
    config.write_text(yaml.safe_dump({"scrape_configs": whole}))
    # It takes all of its time, whatever it finds.
    command = ("promtool", "check", "service-discovery", "--timeout=1s", str(config))
    looking = [
        subprocess.Popen([*command, each["job_name"]], stdout=subprocess.PIPE, text=True)
        for each in whole
    ]
    found = []
    for each in looking:
        said, _ = each.communicate(timeout=60)
        assert each.returncode == 0, said
        found += [target["labels"] for target in json.loads(said) if target.get("labels")]
    return found
