"""What our containers may do on a node, and how kubelet looks after them."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.service.agent import Agent
from modelcache.service.controller import Controller
from modelcache.service.tuner import TunerDaemon
from modelcache.service.warmer import Warmer
from modelcache.service.warming import Budget
from modelcache.settings import AgentSettings, ControllerSettings, TuneSettings, WarmSettings
from tests.support.manifests import Object, containers, kustomizations, objects, one, patches, pods

ALL = objects()
PODS = pods(ALL)
CONTAINERS = containers(ALL)
AGENT = 65532
AS_ROOT = {"prepare-root", "tuner", "restore-read-ahead"}
"""Owner of what they change on the node, and nothing more than that."""
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


def added_to_pods() -> list[Object]:
    """What components and overlays add to a pod."""
    return [
        step["value"]
        for kustomization in kustomizations().values()
        for target, step in patches(kustomization)
        if target["kind"] not in ("ClusterRole", "Role") and isinstance(step["value"], dict)
    ]


def test_the_containers_that_there_are() -> None:
    added = {value["name"] for value in added_to_pods() if "image" in value}
    assert CONTAINERS.keys() | added == {
        *("prepare-root", "agent", "controller", "cleanup"),
        *("webhook", "tuner", "restore-read-ahead", "warmer"),
    }


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS.keys())
def test_pods_are_no_root_and_share_nothing_with_the_host(pod: Object) -> None:
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert (security["runAsUser"], security["runAsGroup"]) == (AGENT, AGENT)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for field in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        assert field not in pod


def test_services_make_no_variables_that_look_like_settings() -> None:
    assert all(pod["enableServiceLinks"] is False for pod in PODS.values())


EVERY = {
    **CONTAINERS,
    **{value["name"]: value for value in added_to_pods() if "image" in value},
}


@pytest.mark.parametrize("container", EVERY.values(), ids=EVERY.keys())
def test_containers_have_no_privilege(container: Object) -> None:
    security = dict(container["securityContext"])
    assert security.pop("capabilities") == {"drop": ["ALL"]}
    assert security.pop("allowPrivilegeEscalation") is False
    assert security.pop("readOnlyRootFilesystem") is True
    if container["name"] in AS_ROOT:
        assert security == {"runAsNonRoot": False, "runAsUser": 0, "runAsGroup": 0}
    else:
        assert security == {}


@pytest.mark.parametrize("container", EVERY.values(), ids=EVERY.keys())
def test_containers_say_what_they_need(container: Object) -> None:
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert set(container["resources"]["limits"]) == {"memory"}
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert "command" not in container  # the image's entry point is the command


def test_prepare_root_is_in_the_agents_group() -> None:
    assert AGENT in PODS["modelcache-agent"]["securityContext"]["supplementalGroups"]


# The host


def test_of_the_host_there_is_the_root_and_nothing_else() -> None:
    paths = {
        volume["hostPath"]["path"]
        for pod in PODS.values()
        for volume in pod["volumes"]
        if "hostPath" in volume
    }
    assert paths == {"/var/lib/modelcache"}
    added = {value["hostPath"]["path"] for value in added_to_pods() if "hostPath" in value}
    assert added == {"/proc/1/mountinfo", "/sys/devices/virtual/bdi"}


@pytest.mark.parametrize("name", ["tuner", "restore-read-ahead"])
def test_the_tuner_writes_read_ahead_and_its_own_directory(name: str) -> None:
    mounts = EVERY[name]["volumeMounts"]
    written = [mount for mount in mounts if not mount.get("readOnly")]
    assert [(mount["name"], mount.get("subPath")) for mount in written] == [
        ("root", "tuner"),
        ("bdi", None),
    ]
    # Where AppArmor's usual profile for containers allows no writing.
    assert not any(mount["mountPath"].startswith(("/sys", "/proc")) for mount in mounts)
    variables = {each["name"]: each["value"] for each in EVERY[name]["env"]}
    places = {mount["mountPath"] for mount in mounts}
    assert set(variables.values()) <= places


@pytest.mark.parametrize("name", ["tuner", "restore-read-ahead"])
def test_the_tuner_has_the_volumes_that_it_mounts(name: str) -> None:
    (folder,) = (
        folder
        for folder, kustomization in kustomizations().items()
        if any(
            isinstance(step["value"], dict) and step["value"].get("name") == name
            for _, step in patches(kustomization)
        )
    )
    added = {
        step["value"]["name"]: step["value"]["hostPath"]
        for _, step in patches(kustomizations()[folder])
        if step["path"].endswith("/volumes/-")
    }
    assert added == {
        "bdi": {"path": "/sys/devices/virtual/bdi", "type": "Directory"},
        "mountinfo": {"path": "/proc/1/mountinfo", "type": "File"},
    }
    assert {mount["name"] for mount in EVERY[name]["volumeMounts"]} == {*added, "root"}


def test_of_the_agents_pod_only_prepare_root_sees_the_hosts_mounts() -> None:
    kustomization = next(k for f, k in kustomizations().items() if f.name == "require-mount")
    mounts = {
        step["path"]: step["value"]
        for _, step in patches(kustomization)
        if "/volumes" not in step["path"]
    }
    pod = PODS["modelcache-agent"]
    assert [each["name"] for each in pod["initContainers"]] == ["prepare-root"]
    assert all(path.startswith("/spec/template/spec/initContainers/0/") for path in mounts)
    assert mounts["/spec/template/spec/initContainers/0/volumeMounts/-"]["readOnly"] is True


def test_the_root_is_at_the_same_path_everywhere() -> None:
    pod = PODS["modelcache-agent"]
    (volume,) = (each for each in pod["volumes"] if each["name"] == "root")
    assert volume["hostPath"]["type"] == "DirectoryOrCreate"
    for container in (*pod["initContainers"], *pod["containers"]):
        (mount,) = (each for each in container["volumeMounts"] if each["name"] == "root")
        assert mount == {"name": "root", "mountPath": volume["hostPath"]["path"]}


# The API server


def test_a_token_only_where_one_is_needed() -> None:
    accounts = [each for each in ALL if each["kind"] == "ServiceAccount"]
    assert accounts
    assert not any(each["automountServiceAccountToken"] for each in accounts)
    assert not any(pod["automountServiceAccountToken"] for pod in PODS.values())
    with_token = {
        name
        for name, container in EVERY.items()
        for mount in container.get("volumeMounts", ())
        if mount["mountPath"] == TOKEN
    }
    assert with_token == EVERY.keys() - AS_ROOT - {"warmer"}


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS.keys())
def test_what_only_the_program_reads_cant_be_written(pod: Object) -> None:
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        for mount in container["volumeMounts"]:
            assert mount["name"] == "root" or mount["readOnly"] is True


def test_the_token_volume_is_as_kubelet_makes_it() -> None:
    for pod in PODS.values():
        (volume,) = (each for each in pod["volumes"] if each["name"] == "api-access")
        token, bundle, namespace = volume["projected"]["sources"]
        assert token["serviceAccountToken"]["path"] == "token"
        assert bundle["configMap"]["name"] == "kube-root-ca.crt"
        assert bundle["configMap"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]
        assert namespace["downwardAPI"]["items"][0]["path"] == "namespace"


def test_origins_secrets_are_files_and_optional() -> None:
    pod = PODS["modelcache-agent"]
    secrets = {each["name"]: each["secret"] for each in pod["volumes"] if "secret" in each}
    assert all(secret["optional"] for secret in secrets.values())
    (agent,) = pod["containers"]
    environment = {each["name"]: each.get("value", "") for each in agent["env"]}
    folder = environment["MODELCACHE_SECRETS_DIR"]
    places = {each["name"]: each["mountPath"] for each in agent["volumeMounts"]}
    for name, secret in secrets.items():
        assert places[name] == f"{folder}/{secret['secretName']}"


# kubelet and the scheduler


def probes(container: Object) -> dict[str, Object]:
    return {kind: container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")}


def paths(container: str) -> set[str]:
    found = set()
    for kind, probe in probes(CONTAINERS[container]).items():
        assert probe["httpGet"]["port"] == "http"
        assert probe["periodSeconds"] >= probe["timeoutSeconds"] or kind == "liveness"
        found.add(probe["httpGet"]["path"])
    (port,) = CONTAINERS[container]["ports"]
    assert port == {"name": "http", "containerPort": 8080}  # the image's MODELCACHE_LISTEN
    return found


def test_the_agent_answers_what_it_is_asked(tmp_path: Path) -> None:
    agent = Agent(AgentSettings(root=tmp_path, listen="127.0.0.1:0", catalog=tmp_path))
    assert agent._endpoints is not None
    try:
        assert paths("agent") <= agent._endpoints._server.routes.keys()
    finally:
        agent._endpoints.close()
        agent._engine.close()


def test_the_warmer_runs_with_its_arguments_and_answers_what_it_is_asked(tmp_path: Path) -> None:
    (warmer,) = [each for each in EVERY.values() if each["name"] == "warmer"]
    assert warmer["args"][:4] == ["warm", "--daemon", "--root", "/var/lib/modelcache"]
    assert warmer["volumeMounts"] == [
        {"name": "root", "mountPath": "/var/lib/modelcache", "readOnly": True}
    ]
    settings = WarmSettings(root=tmp_path, warm_listen="127.0.0.1:0")
    running = Warmer(settings, lambda: Budget(1, "--memory"))
    assert running._endpoints is not None
    try:
        known = running._endpoints._server.routes.keys()
    finally:
        running._endpoints.close()
    for kind in ("startup", "liveness"):
        probe = warmer[f"{kind}Probe"]["httpGet"]
        assert probe["path"] in known
        assert probe["port"] == warmer["ports"][0]["name"]


def test_the_controller_answers_what_it_is_asked(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "{clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], users: [],"
        " contexts: [{name: c, context: {cluster: c}}], current-context: c}"
    )
    controller = Controller(ControllerSettings(kubeconfig=kubeconfig, listen="127.0.0.1:0"))
    assert controller._endpoints is not None
    try:
        assert paths("controller") <= controller._endpoints._server.routes.keys()
    finally:
        controller._endpoints.close()


def test_the_tuner_answers_what_it_is_asked(tmp_path: Path) -> None:
    settings = TuneSettings(root=tmp_path, read_ahead="", listen="127.0.0.1:0")
    tuner = TunerDaemon(settings, None)
    container = EVERY["tuner"]
    assert tuner._endpoints is not None
    try:
        for probe in probes(container).values():
            assert probe["httpGet"]["port"] == "tuner-http"
            assert probe["httpGet"]["path"] in tuner._endpoints._server.routes
    finally:
        tuner._endpoints.close()
    (port,) = container["ports"]
    assert container["args"][-1].endswith(f":{port['containerPort']}")


def test_a_slow_start_is_given_time_and_a_hung_one_is_not_waited_for() -> None:
    for container in ("agent", "controller"):
        startup, liveness, _ = probes(CONTAINERS[container]).values()
        assert startup["httpGet"]["path"] == liveness["httpGet"]["path"] == "/livez"
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 60
        assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 60


def test_priorities() -> None:
    classes = {each["metadata"]["name"]: each for each in ALL if each["kind"] == "PriorityClass"}
    used = {pod["priorityClassName"] for pod in PODS.values() if "priorityClassName" in pod}
    assert used == classes.keys()
    assert classes["modelcache-agent"]["preemptionPolicy"] == "Never"
    assert all(0 < each["value"] < 1_000_000_000 for each in classes.values())


def test_labels_select_what_they_are_meant_to() -> None:
    for kind, name in (("DaemonSet", "modelcache-agent"), ("Deployment", "modelcache-controller")):
        workload = one(ALL, kind, name)
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
        service = one(ALL, "Service", name)
        assert service["spec"]["selector"].items() <= labels.items()
        assert all(port["targetPort"] == "http" for port in service["spec"]["ports"])
    controller = one(ALL, "Deployment", "modelcache-controller")
    labels = controller["spec"]["template"]["metadata"]["labels"]
    budget = one(ALL, "PodDisruptionBudget", "modelcache-controller")
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"  # a drain is not held up
    for constraint in PODS["modelcache-controller"]["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"].items() <= labels.items()


def test_large_clusters_roll_out_in_reasonable_time() -> None:
    strategy = one(ALL, "DaemonSet", "modelcache-agent")["spec"]["updateStrategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}


def test_everything_of_ours_carries_our_name() -> None:
    for each in ALL:
        assert each["metadata"]["labels"]["app.kubernetes.io/name"] == "modelcache", each[
            "metadata"
        ]
        assert each["metadata"]["name"].startswith("modelcache"), each["metadata"]
