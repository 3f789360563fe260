"""The manifests: rendered by kubectl, checked against today's schemas, applied to a real API
server, scheduled by a real scheduler, and uninstalled without a trace.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from modelcache.settings import STARTUP_TAINT
from tests.component.cluster.test_cleanup import (
    assert_foreign_things_are_there,
    cleanup,
    make_used_node,
    ours_on,
)
from tests.support.cluster.binaries import why_none
from tests.support.cluster.fixtures import NAMESPACE
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually
from tests.support.manifests import (
    COMPONENTS,
    FOLDER,
    OVERLAYS,
    Object,
    check_with_current_schema,
    containers,
    find_kubectl,
    kustomizations,
    one,
    pods,
    render,
    settings_of,
)
from tests.support.rbac import CLEANUP, expected, roles

WITHOUT_A_SCHEMA_HERE = (
    "readiness.node.x-k8s.io/v1alpha1",
    # Their fields: tests/unit/daemonset/test_monitoring.py.
    "monitoring.coreos.com/v1",
    "monitoring.googleapis.com/v1",
)
"""Other projects' kinds."""


def base_with(tmp: Path, *components: str, below: str = "base") -> Path:
    """A user's own kustomization: the base, or an overlay, with some components."""
    folder = tmp / "own"
    folder.mkdir(parents=True)
    # kustomize takes relative paths only.
    (folder / "daemonset").symlink_to(FOLDER)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"daemonset/{below}"],
        "components": [f"daemonset/components/{component}" for component in components],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
    return folder


def components_of(overlay: str) -> list[str]:
    (found,) = (k for f, k in kustomizations().items() if f == FOLDER / "overlays" / overlay)
    return [Path(component).name for component in found["components"]]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Object]]:
    """All that kubectl makes of our folders, by folder; components on top of the base."""
    if find_kubectl() is None:
        pytest.skip(why_none())
    found = {"base": render(FOLDER / "base"), "cleanup": render(FOLDER / "cleanup")}
    for component in COMPONENTS:
        folder = base_with(tmp_path_factory.mktemp(component), component)
        found[f"components/{component}"] = render(folder)
    for overlay in OVERLAYS:
        found[f"overlays/{overlay}"] = render(FOLDER / "overlays" / overlay)
    return found


EVERYTHING = [
    *("base", "cleanup"),
    *(f"components/{component}" for component in COMPONENTS),
    *(f"overlays/{overlay}" for overlay in OVERLAYS),
]


def test_the_crds_render(rendered: dict[str, list[Object]]) -> None:
    assert rendered["base"]
    assert {each["kind"] for each in render(FOLDER / "crds")} == {"CustomResourceDefinition"}


@pytest.mark.parametrize("folder", EVERYTHING)
def test_every_object_fits_the_schema_of_a_current_cluster(
    rendered: dict[str, list[Object]], folder: str
) -> None:
    for document in rendered[folder]:
        if document["apiVersion"] not in WITHOUT_A_SCHEMA_HERE:
            check_with_current_schema(document)


@pytest.mark.parametrize("folder", EVERYTHING)
def test_the_rights_are_those_that_are_pinned(
    rendered: dict[str, list[Object]], folder: str
) -> None:
    kind, _, name = folder.partition("/")
    if kind == "cleanup":
        assert roles(rendered[folder]) == CLEANUP
    else:
        used = {
            "base": [],
            "components": [name],
            "overlays": components_of(name) if name in OVERLAYS else [],
        }
        assert roles(rendered[folder]) == expected(used[kind])


@pytest.mark.parametrize("folder", EVERYTHING)
def test_one_image_everywhere(rendered: dict[str, list[Object]], folder: str) -> None:
    images = {each["image"] for each in containers(rendered[folder]).values()}
    assert images == {"modelcache/agent:dev"}


def arguments_of_the_controller(documents: list[Object]) -> list[str]:
    deployment = one(documents, "Deployment", "modelcache-controller")
    found: list[str] = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    return found


@pytest.mark.parametrize("folder", EVERYTHING)
def test_a_startup_taint_is_touched_only_with_its_component(
    rendered: dict[str, list[Object]], folder: str
) -> None:
    if folder == "cleanup":
        return
    off = "startup-taint" not in folder and "startup-taint" not in (
        components_of(folder.partition("/")[2]) if folder.startswith("overlays/") else []
    )
    arguments = arguments_of_the_controller(rendered[folder])
    assert arguments == (["controller", "--startup-taint="] if off else ["controller"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_an_overlay_sets_counts(rendered: dict[str, list[Object]], overlay: str) -> None:
    """What a component sets in the same ConfigMap would win."""
    (found,) = (k for f, k in kustomizations().items() if f == FOLDER / "overlays" / overlay)
    settings = one(rendered[f"overlays/{overlay}"], "ConfigMap", "modelcache-settings")["data"]
    asked = settings_of(found)
    assert asked
    assert asked.items() <= settings.items()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlays_root_is_one_path_everywhere(
    rendered: dict[str, list[Object]], overlay: str
) -> None:
    documents = rendered[f"overlays/{overlay}"]
    settings = one(documents, "ConfigMap", "modelcache-settings")["data"]
    root = settings["MODELCACHE_ROOT"]
    assert root != "/var/lib/modelcache"
    pod = pods(documents)["modelcache-agent"]
    (volume,) = (each for each in pod["volumes"] if each["name"] == "root")
    assert volume["hostPath"]["path"] == root
    for container in (*pod["initContainers"], *pod["containers"]):
        places = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert places["root"] == root


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_on_an_overlay_the_tuner_has_its_root(
    rendered: dict[str, list[Object]], overlay: str, tmp_path: Path
) -> None:
    before = one(rendered[f"overlays/{overlay}"], "ConfigMap", "modelcache-settings")["data"]
    documents = render(base_with(tmp_path, "tuner", below=f"overlays/{overlay}"))
    settings = one(documents, "ConfigMap", "modelcache-settings")["data"]
    assert settings == before
    mounts = containers(documents)["tuner"]["volumeMounts"]
    places = [(each["mountPath"], each.get("subPath")) for each in mounts]
    assert places[:2] == [(settings["MODELCACHE_ROOT"], None), ("/host/tuner", "tuner")]
    volumes = [each["name"] for each in pods(documents)["modelcache-agent"]["volumes"]]
    assert len(volumes) == len(set(volumes))
    restoring = render(base_with(tmp_path / "2", "tuner-restore", below=f"overlays/{overlay}"))
    (prepare, restore) = pods(restoring)["modelcache-agent"]["initContainers"]
    assert (prepare["name"], restore["name"]) == ("prepare-root", "restore-read-ahead")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_has_the_overlays_settings(
    rendered: dict[str, list[Object]], overlay: str
) -> None:
    documents = rendered[f"overlays/{overlay}"]
    name = one(documents, "ConfigMap", "modelcache-settings")["metadata"]["name"]
    for container in containers(documents).values():
        assert container["envFrom"] == [{"configMapRef": {"name": name}}], container["name"]


def test_a_change_of_settings_rolls_out(rendered: dict[str, list[Object]]) -> None:
    names = {
        one(documents, "ConfigMap", "modelcache-settings")["metadata"]["name"]
        for folder, documents in rendered.items()
        if folder.startswith("overlays/")
    }
    assert len(names) == len(OVERLAYS)


@pytest.mark.parametrize("folder", EVERYTHING)
def test_all_that_is_rendered_carries_our_name(
    rendered: dict[str, list[Object]], folder: str
) -> None:
    """Generated ConfigMaps too: what is ours is found by it."""
    for document in (*rendered[folder], *render(FOLDER / "crds")):
        labels = document["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "modelcache", document["metadata"]


def test_the_examples_of_the_docs_render(rendered: dict[str, list[Object]], tmp_path: Path) -> None:
    """A user's overlay, the volume of one more Secret, a proxy and a CA."""
    assert rendered["base"]
    text = (FOLDER.parent / "docs" / "install.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    (own,) = (block for block in blocks if block.get("kind") == "Kustomization")
    others = [block for block in blocks if "patches" in block and block is not own]
    assert len(others) == 3
    for other in others:
        own["patches"] += other["patches"]
        own["configMapGenerator"] += other.get("configMapGenerator", [])
    (tmp_path / "ca.pem").write_text("the certificate")
    (tmp_path / "model-cache-agent").symlink_to(FOLDER.parent)
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(own))
    documents = render(tmp_path)
    for document in documents:
        check_with_current_schema(document)
    images = {each["image"] for each in containers(documents).values()}
    assert images == {"registry.example.com/modelcache/agent:0.1.0"}
    accounts = [each for each in documents if each["kind"] == "ServiceAccount"]
    assert [each["imagePullSecrets"] for each in accounts] == [[{"name": "registry"}]] * 2
    settings = one(documents, "ConfigMap", "modelcache-settings")["data"]
    assert settings["MODELCACHE_BANDWIDTH"] == "500Mi"
    pod = pods(documents)["modelcache-agent"]
    assert "dedicated" in {each["key"] for each in pod["tolerations"]}
    places = {each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    assert "/etc/modelcache/secrets/s3-models" in places
    bundle = Path(settings["MODELCACHE_CA_BUNDLE"])
    assert str(bundle.parent) in places
    authority = one(documents, "ConfigMap", "modelcache-ca")
    assert authority["data"] == {bundle.name: "the certificate"}
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes["ca"]["configMap"]["name"] == authority["metadata"]["name"]
    assert "HTTPS_PROXY" in {each["name"] for each in pod["containers"][0]["env"]}


# A real API server


def known(plane: ControlPlane, documents: list[Object]) -> list[Object]:
    """Those that this server has the kind of: 1.20 lacks some of today's."""
    versions = {each["apiVersion"] for each in documents}
    served = set()
    for version in versions:
        path = f"/apis/{version}" if "/" in version else f"/api/{version}"
        for resource in (plane.find(path) or {}).get("resources", ()):
            served.add((version, resource["kind"]))
    found = [each for each in documents if (each["apiVersion"], each["kind"]) in served]
    unknown = {each["kind"] for each in documents} - {each["kind"] for each in found}
    assert unknown <= {
        "NodeReadinessRule",
        "PodDisruptionBudget",
        "PodMonitor",
        "PodMonitoring",
        "PrometheusRule",
        "Rules",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    return found


def at(root: Path, documents: list[Object]) -> list[Object]:
    """The agent's directory elsewhere: hollow nodes really make it, on the machine of the tests."""
    moved: list[Object] = copy.deepcopy(documents)
    for volume in pods(moved)["modelcache-agent"]["volumes"]:
        if volume["name"] == "root":
            volume["hostPath"]["path"] = str(root / "root")
    return moved


def as_list(documents: list[Object]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})


@pytest.mark.parametrize("folder", EVERYTHING)
def test_the_api_server_takes_everything(
    cluster: ControlPlane, rendered: dict[str, list[Object]], folder: str
) -> None:
    documents = known(cluster, rendered[folder])
    said = cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=as_list(documents))
    assert len(said.splitlines()) == len(documents)


def allowed(plane: ControlPlane, account: str, verb: str, what: str, *flags: str) -> bool:
    user = f"system:serviceaccount:{NAMESPACE}:{account}"
    said = plane.kubectl("auth", "can-i", verb, what, "--as", user, *flags, check=False)
    return said.splitlines()[0] == "yes"


@pytest.fixture
def base(
    three_nodes: ControlPlane, rendered: dict[str, list[Object]], tmp_path: Path
) -> Iterator[ControlPlane]:
    """The base, applied."""
    documents = at(tmp_path, known(three_nodes, rendered["base"]))
    three_nodes.kubectl("apply", "-f", "-", stdin=as_list(documents))
    yield three_nodes
    rest = [each for each in documents if each["kind"] != "Namespace"]
    three_nodes.kubectl("delete", "--wait=false", "-f", "-", stdin=as_list(rest))

    def end_pods() -> list[Object]:
        # At once: hollow containers don't listen to SIGTERM.
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        three_nodes.api(f"{path}?gracePeriodSeconds=0", "DELETE")
        found: list[Object] = three_nodes.api(path)["items"]
        return found

    eventually(end_pods, lambda left: not left, timeout=60, what="the end of the pods")


def test_agents_run_where_they_should(base: ControlPlane) -> None:
    """By the real DaemonSet controller and scheduler: on a new node whose taint is ours, on a GPU
    node, and not on one that is reserved for others."""
    taints: dict[str, list[Object]] = {
        "n1": [{"key": STARTUP_TAINT, "effect": "NoSchedule"}],
        "n2": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}],
        "n3": [{"key": "dedicated", "value": "database", "effect": "NoExecute"}],
    }
    for name, found in taints.items():
        patch = {"spec": {"taints": found}}
        base.api(f"/api/v1/nodes/{name}", "PATCH", patch, "merge-patch+json")

    def nodes() -> set[str]:
        return {pod["spec"].get("nodeName", "") for pod in pods_of(base, "agent")}

    eventually(nodes, lambda seen: seen == {"n1", "n2"}, timeout=60, what="agents on n1 and n2")


def pods_of(plane: ControlPlane, component: str) -> list[Object]:
    """The pods of a component, those apart that are about to end."""
    selector = f"labelSelector=app.kubernetes.io/component={component}"
    found: list[Object] = plane.api(f"/api/v1/namespaces/{NAMESPACE}/pods?{selector}")["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def all_wait_for_their_models(plane: ControlPlane) -> None:
    for name in ("n1", "n2", "n3"):
        patch = {"spec": {"taints": [{"key": STARTUP_TAINT, "effect": "NoSchedule"}]}}
        plane.api(f"/api/v1/nodes/{name}", "PATCH", patch, "merge-patch+json")


def test_the_controller_runs_where_every_node_waits_for_its_models(base: ControlPlane) -> None:
    all_wait_for_their_models(base)
    before = {pod["metadata"]["name"] for pod in pods_of(base, "controller")}
    selector = "app.kubernetes.io/component=controller"
    base.kubectl("-n", NAMESPACE, "delete", "pods", "-l", selector, "--force", "--grace-period=0")

    def nodes() -> list[str]:
        return [
            pod["spec"].get("nodeName", "")
            for pod in pods_of(base, "controller")
            if pod["metadata"]["name"] not in before
        ]

    def spread(seen: list[str]) -> bool:
        return len({*seen} - {""}) == 2

    eventually(nodes, spread, timeout=60, what="two replicas on two nodes")


def test_what_the_api_server_lets_an_agent_do(base: ControlPlane) -> None:
    for verb, what, *flags in (
        ("list", "nodes"),
        ("patch", "nodes"),
        ("patch", "nodes", "--subresource=status"),
        ("watch", "pods", "-A"),
        ("watch", "cachedmodels.modelcache.dev"),
        ("create", "nodecaches.modelcache.dev"),
        ("patch", "nodecaches.modelcache.dev", "--subresource=status"),
        ("update", "leases.coordination.k8s.io", "-n", NAMESPACE),
        ("create", "events.events.k8s.io", "-n", "default"),
    ):
        assert allowed(base, "modelcache-agent", verb, what, *flags), (verb, what, flags)
    for verb, what, *flags in (
        ("get", "secrets", "-n", NAMESPACE),
        ("list", "secrets", "-A"),
        ("get", "configmaps", "-n", NAMESPACE),
        ("delete", "pods", "-A"),
        ("create", "pods", "-n", NAMESPACE),
        ("create", "pods", "--subresource=exec", "-n", NAMESPACE),
        ("delete", "nodes"),
        ("update", "nodes"),
        ("patch", "cachedmodels.modelcache.dev", "--subresource=status"),
        ("delete", "nodecaches.modelcache.dev"),
        ("update", "leases.coordination.k8s.io", "-n", "kube-system"),
        ("create", "events.events.k8s.io", "-n", "kube-system"),
    ):
        assert not allowed(base, "modelcache-agent", verb, what, *flags), (verb, what, flags)


def test_what_the_api_server_lets_the_controller_do(base: ControlPlane) -> None:
    assert allowed(
        base,
        "modelcache-controller",
        "patch",
        "cachedmodels.modelcache.dev",
        "--subresource=status",
    )
    for verb, what, *flags in (
        ("patch", "nodes"),  # components/startup-taint
        ("patch", "nodes", "--subresource=status"),
        ("list", "pods", "-A"),
        ("get", "secrets", "-A"),
        ("patch", "cachedmodels.modelcache.dev"),
        ("patch", "nodecaches.modelcache.dev", "--subresource=status"),
    ):
        assert not allowed(base, "modelcache-controller", verb, what, *flags), (verb, what, flags)


# Uninstalling


@pytest.fixture
def namespace_after(three_nodes: ControlPlane) -> Iterator[ControlPlane]:
    """Puts back the namespace that other tests use, which this one deletes."""
    yield three_nodes
    path = f"/api/v1/namespaces/{NAMESPACE}"
    eventually(lambda: three_nodes.find(path), lambda found: found is None, timeout=90)
    three_nodes.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    three_nodes.await_service_account(NAMESPACE)


def anything_of_ours(plane: ControlPlane) -> list[str]:
    """Names of what is left in the cluster with our label, the CRDs apart."""
    kinds = (
        "clusterroles,clusterrolebindings,priorityclasses,mutatingwebhookconfigurations,namespaces"
    )
    namespaced = (
        "roles,rolebindings,serviceaccounts,services,configmaps,daemonsets,deployments,pods,jobs"
    )
    selector = "app.kubernetes.io/name=modelcache"
    found = plane.kubectl("get", kinds, "-l", selector, "-o", "name")
    found += plane.kubectl("get", namespaced, "-A", "-l", selector, "-o", "name")
    return found.split()


def test_uninstalling_leaves_nothing_of_ours(
    namespace_after: ControlPlane, rendered: dict[str, list[Object]], tmp_path: Path
) -> None:
    plane = namespace_after
    documents = at(tmp_path, known(plane, rendered["overlays/generic-nvme"]))
    job = rendered["cleanup"]
    plane.kubectl("apply", "-f", "-", stdin=as_list(documents))
    make_used_node(plane, "used")
    plane.label_node("n1", {"modelcache.dev/node": "true"})

    # What docs/install.md says; the hollow node's container does nothing, so its program runs here.
    plane.kubectl("apply", "-f", "-", stdin=as_list(job))
    kubeconfig = plane.service_account_kubeconfig(NAMESPACE, "modelcache-cleanup")
    container = containers(job)["cleanup"]
    environment = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    code, said, told = cleanup(kubeconfig, env=environment)
    assert code == 0, told
    assert said["changed"] == 1
    everything = [*documents, *job]
    plane.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=as_list(everything))

    assert ours_on(plane) == {}
    assert_foreign_things_are_there(plane, "used")
    assert plane.node_labels("n1")["modelcache.dev/node"] == "true"  # a person's
    eventually(lambda: anything_of_ours(plane), lambda left: not left, timeout=60)
    # What people wrote, and their kinds, stay until they are deleted themselves.
    assert "cachedmodels" in plane.kubectl("api-resources", "--api-group=modelcache.dev")


def test_the_job_of_the_cleanup_runs_where_every_node_waits(
    three_nodes: ControlPlane, rendered: dict[str, list[Object]]
) -> None:
    all_wait_for_their_models(three_nodes)
    job = as_list(rendered["cleanup"])
    three_nodes.kubectl("apply", "-f", "-", stdin=job)
    try:
        eventually(
            lambda: [pod["status"]["phase"] for pod in pods_of(three_nodes, "cleanup")],
            lambda seen: seen == ["Running"],
            timeout=60,
            what="the Job's pod",
        )
    finally:
        three_nodes.kubectl("delete", "-f", "-", stdin=job)
