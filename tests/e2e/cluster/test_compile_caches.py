"""Compile caches in pods on a real node: captured, signed, published, seeded, refused."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.signing import TrustedKeys
from modelcache.compilecache.bundles.trust import Trust
from tests.e2e.cluster.nodes import cached_model, node_cache
from tests.e2e.cluster.realnodes import (
    AGENT_ID,
    IMAGE,
    ROOT,
    World,
    agent_pod,
    asking_webhook,
    create,
    world,
)
from tests.support.agent import modelcache
from tests.support.cluster import image
from tests.support.cluster.fixtures import NAMESPACE
from tests.support.cluster.kubelet import RealKubelet
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.heavy, pytest.mark.timeout(600)]

MIB = 1024 * 1024
NODE = "n1"
PLACE = "/mnt/nvme/place"
CACHE_DIR = "/var/cache/modelcache"
PUBLISHER = "engine-compiler"
CACHES = "/apis/modelcache.dev/v1alpha1/compilecaches"
PORT = 8000

ENGINE = """
import hashlib, http.server, json, os, sys

cache, kernels, size = os.environ["TORCHINDUCTOR_CACHE_DIR"], int(sys.argv[1]), int(sys.argv[2])
found, compiled, owners = 0, 0, set()
for number in range(kernels):
    name = hashlib.sha256(b"kernel %d" % number).hexdigest()
    path = os.path.join(cache, name[:2], "c" + name + ".so")
    try:
        with open(path, "rb") as file:
            found += len(file.read()) == size
        os.utime(path.rpartition("/")[0])
        owners.add(os.stat(path).st_uid)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + ".tmp", "wb") as file:
            file.write(os.urandom(size))
        os.rename(path + ".tmp", path)
        compiled += 1
said = {"found": found, "compiled": compiled, "owners": sorted(owners), "uid": os.getuid()}
print(json.dumps(said), flush=True)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

http.server.HTTPServer(("", 8000), Handler).serve_forever()
"""
"""An engine: it compiles what it doesn't find in its cache, says what it found, and then serves."""

_PLACE = [
    {
        "op": "add",
        "path": "/spec/template/spec/volumes/-",
        "value": {"name": "place", "hostPath": {"path": PLACE, "type": "DirectoryOrCreate"}},
    },
    {
        "op": "add",
        "path": "/spec/template/spec/containers/0/volumeMounts/-",
        "value": {"name": "place", "mountPath": PLACE},
    },
]


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "signing.pem"
    done = modelcache("compile", "keygen", "--out", path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, key_file: Path) -> Iterator[World]:
    """With the component for compile caches, its keys, and a place that agents mount."""
    target = {"kind": "DaemonSet", "name": "modelcache-agent"}
    with world(
        tmp_path_factory.mktemp("overlay"),
        components=["compile-caches"],
        settings={"MODELCACHE_FILE_ROOTS": PLACE},
        patches=[{"target": target, "patch": json.dumps(_PLACE)}],
    ) as found:
        own = ("-n", NAMESPACE, "create")
        # As the component's comment says.
        keys = f"--from-file={key_file}.pub"
        found.plane.kubectl(*own, "configmap", "modelcache-trusted-keys", keys)
        signing = f"--from-file=signing.pem={key_file}"
        found.plane.kubectl(*own, "secret", "generic", "modelcache-signing-key", signing)
        found.plane.kubectl("create", "configmap", "engine", f"--from-literal=engine.py={ENGINE}")
        found.plane.kubectl("create", "serviceaccount", PUBLISHER)
        commit = found.hub.add_repo(
            "org/a", {"config.json": b"{}", "model.safetensors": b"w" * MIB}
        )
        found.plane.apply(cached_model("a", f"org/a@{commit}"))
        yield found


@pytest.fixture(scope="module")
def node(cluster: World) -> Iterator[RealKubelet]:
    with cluster.node(NODE, labels={"modelcache.dev/node": "true"}) as found:
        place = found.disk / "place"
        place.mkdir(exist_ok=True)
        os.chown(place, AGENT_ID, AGENT_ID)
        yield found


@pytest.fixture(scope="module")
def engine_image(node: RealKubelet) -> str:
    """The image of the engine, which is ours, by its digest."""
    return node.name_by_digest(image.IMAGE)


def command(kernels: int, size: int) -> list[str]:
    return ["/opt/modelcache/bin/python3", "/engine/engine.py", str(kernels), str(size)]


def compile_cache(name: str, image: str, kernels: int, size: int) -> dict[str, Any]:
    """A CompileCache as a person writes it."""
    return {
        "apiVersion": "modelcache.dev/v1alpha1",
        "kind": "CompileCache",
        "metadata": {"name": name},
        "spec": {
            "model": "a",
            "engine": {"name": "torch", "image": image, "args": command(kernels, size)},
            "bundles": {"uri": f"file://{PLACE}"},
            "publishers": [{"namespace": "default", "serviceAccount": PUBLISHER}],
        },
    }


def engine_pod(
    name: str, cache: dict[str, Any], *, account: str, user: int, restarts: str = "Never"
) -> dict[str, Any]:
    """A pod as a person writes it."""
    annotations = {
        "modelcache.dev/compile-cache": cache["metadata"]["name"],
        "modelcache.dev/compile-quiet": "2s",
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {
            "restartPolicy": restarts,
            "serviceAccountName": account,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user},
            "volumes": [{"name": "engine", "configMap": {"name": "engine"}}],
            "containers": [
                {
                    "name": "engine",
                    "image": cache["spec"]["engine"]["image"],
                    "imagePullPolicy": "Never",
                    "command": cache["spec"]["engine"]["args"],
                    "readinessProbe": {
                        "httpGet": {"path": "/health", "port": PORT},
                        "periodSeconds": 1,
                    },
                    "volumeMounts": [{"name": "engine", "mountPath": "/engine"}],
                }
            ],
        },
    }


@pytest.fixture(scope="module")
def cache(cluster: World, node: RealKubelet, engine_image: str) -> dict[str, Any]:
    """An object whose key the node knows: its model is there."""
    made = compile_cache("graphs", engine_image, 20, 10_000)
    cluster.plane.apply(made)
    eventually(
        lambda: report(cluster.plane, "graphs"),
        lambda found: found.get("key"),
        timeout=120,
        what="the node's key",
    )
    return made


@pytest.fixture(scope="module")
def first(cluster: World, node: RealKubelet, cache: dict[str, Any]) -> dict[str, Any]:
    """What NodeCache says when a first start was captured and published."""
    pod = engine_pod("first", cache, account=PUBLISHER, user=2000)
    _, warnings = create(cluster, asking_webhook(cluster, pod))
    assert warnings == []
    return eventually(
        lambda: report(cluster.plane, "graphs"),
        lambda found: found.get("state") == "Ready" and not found.get("outgoing"),
        timeout=60,
        what="a bundle",
    )


def test_a_first_start_is_captured_signed_and_published(
    cluster: World, node: RealKubelet, key_file: Path, first: dict[str, Any]
) -> None:
    plane = cluster.plane
    assert said(node, "first") == {"found": 0, "compiled": 20, "owners": [], "uid": 2000}
    assert first["lastStart"]["result"] == "Miss"
    assert first["lastStart"]["reason"] == "NothingSeeded"
    digest, key = first["digest"], first["key"]

    # At the place, whole, and signed by the cluster's key for the pod that brought it.
    published = node.disk / "place" / key / digest.removeprefix("sha256:")
    bundle = LocalBundle.open(published)
    trust = Trust(TrustedKeys.load(Path(f"{key_file}.pub")), frozenset())
    statement = trust.admit(bundle.envelope_bytes)
    assert (statement.name, statement.digest) == ("graphs", digest)
    assert statement.producer.service_account == f"default/{PUBLISHER}"
    assert statement.producer.pod == "default/first"
    assert statement.producer.node == NODE
    assert statement.archive.files == 20

    # Told: the node's label, the object's status, and for people.
    label = "modelcache.dev/compile.graphs"
    eventually(lambda: plane.node_labels(NODE).get(label) == key[:12], what="the label")
    status = eventually(
        lambda: plane.api(f"{CACHES}/graphs")["status"],
        lambda status: status["readyNodes"] == "1/1" and status["bundles"],
        what="the object's status",
    )
    (told,) = status["bundles"]
    assert (told["digest"], told["key"], told["state"]) == (digest, key, "Published")
    line = plane.kubectl("get", "compilecaches", "graphs").splitlines()[1].split()
    assert line[:6] == ["graphs", "a", "torch", "1/1", "0", "0"]
    # It has nothing more to do, and ends; the engine goes on.
    ended = eventually(
        lambda: container(plane, "first", "modelcache-compile-capture"),
        lambda found: "terminated" in found["state"],
        what="the sidecar's end",
    )
    assert ended["state"]["terminated"]["exitCode"] == 0
    assert "running" in container(plane, "first", "engine")["state"]


def test_the_next_start_hits_in_a_copy_of_its_own(
    cluster: World, node: RealKubelet, cache: dict[str, Any], first: dict[str, Any]
) -> None:
    plane, held = cluster.plane, Path(first["path"]) / "current"
    bundle = node.disk / held.relative_to("/mnt/nvme")
    before = content_of(bundle)
    pod = engine_pod("second", cache, account="default", user=3000, restarts="Always")
    made, warnings = create(cluster, asking_webhook(cluster, pod))
    assert warnings == []
    hit = eventually(
        lambda: report(plane, "graphs"),
        lambda found: found["lastStart"]["result"] == "Hit",
        timeout=60,
        what="a hit",
    )
    assert said(node, "second") == {"found": 20, "compiled": 0, "owners": [3000], "uid": 3000}
    assert hit["verified"] is True
    assert hit["lastMiss"] == first["lastStart"]
    assert hit["digest"] == first["digest"]
    status = eventually(
        lambda: plane.api(f"{CACHES}/graphs")["status"],
        lambda status: status["bundles"][0]["state"] == "Verified",
        what="the bundle's state",
    )
    assert len(status["bundles"]) == 1
    # Where what ends would be started again, the sidecar stays: the pod is ready.
    sidecar = container(plane, "second", "modelcache-compile-capture")
    assert "running" in sidecar["state"]
    assert sidecar["restartCount"] == 0
    told = eventually(
        lambda: logged(node.logs("default", "second", sidecar["name"]))["capture.nothing"],
        what="why nothing is captured",
    )
    assert told["message"].startswith("this pod does not publish: ")
    # It is the pod's own: what it writes there nobody else sees.
    mine = volume(made["metadata"]["uid"], "modelcache-compile")
    node.run("sh", "-c", f"for f in $(find {mine} -name '*.so'); do echo more >> $f; done")
    assert content_of(bundle) == before
    digest = sha256((bundle / "archive.tar.zst").read_bytes()).hexdigest()
    assert LocalBundle.open(bundle).statement.archive.digest == f"sha256:{digest}"


@pytest.mark.usefixtures("first")
def test_who_is_no_publisher_is_refused(
    cluster: World, node: RealKubelet, engine_image: str, tmp_path: Path
) -> None:
    plane = cluster.plane
    theirs = compile_cache("others", engine_image, 21, 10_000)
    plane.apply(theirs)
    # Injected by somebody who says that this account may publish, which the object doesn't.
    lie = json.loads(json.dumps(theirs))
    lie["spec"]["publishers"] = [{"namespace": "default", "serviceAccount": "default"}]
    pod, models = tmp_path / "pod.json", tmp_path / "caches.yaml"
    pod.write_text(json.dumps(engine_pod("liar", theirs, account="default", user=2000)))
    models.write_text(json.dumps(lie))
    done = modelcache(
        *("inject", "-f", pod, "--models", models, "--root", ROOT, "--image", IMAGE),
        *("--sidecars", "ordinary", "-o", "json"),
    )
    assert done.returncode == 0, done.stderr
    eventually(lambda: report(plane, "others").get("key"), what="the node's key")
    plane.kubectl("create", "-f", "-", stdin=done.stdout)
    refused = eventually(
        lambda: logged(node.logs("default", "liar", "modelcache-compile-capture")),
        lambda lines: "capture.refused" in lines,
        timeout=60,
        what="the refusal",
    )["capture.refused"]
    assert "default/default is not among the publishers of others" in refused["message"]
    eventually(
        lambda: report(plane, "others"),
        lambda found: found.get("lastStart", {}).get("result") == "Miss",
        what="the start",
    )
    assert report(plane, "others")["state"] == "Missing"
    assert not (node.disk / "modelcache/compile/others").exists()
    assert names_at(node) == {"graphs"}
    assert plane.api(f"{CACHES}/others")["status"].get("bundles", []) == []


def test_where_pods_may_not_mount_a_host_path_a_warning_says_so(
    cluster: World, cache: dict[str, Any]
) -> None:
    plane = cluster.plane
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace"}
    plane.apply({**namespace, "metadata": {"name": "strict", "labels": labels}})
    pod = engine_pod("strict", cache, account="default", user=2000)
    pod["metadata"] |= {"namespace": "strict", "labels": {"modelcache.dev/inject": "true"}}
    made, warnings = eventually(
        lambda: create(cluster, pod, dry_run=True),
        lambda found: "Pod Security restricted" in " ".join(found[1]),
        what="the warning",
    )
    assert "nothing is seeded" in warnings[0]
    assert not any("hostPath" in volume for volume in made["spec"]["volumes"])
    assert "initContainers" not in made["spec"]


def test_a_pod_that_is_killed_while_it_hands_over_leaves_nothing(
    cluster: World, node: RealKubelet, engine_image: str, first: dict[str, Any]
) -> None:
    plane = cluster.plane
    large = compile_cache("large", engine_image, 16, 8 * MIB)
    plane.apply(large)
    eventually(lambda: report(plane, "large").get("key"), what="the node's key")
    pod = engine_pod("killed", large, account=PUBLISHER, user=2000)
    create(cluster, asking_webhook(cluster, pod))
    staging = node.disk / "modelcache/ingest/staging"
    (sidecar,) = eventually(
        lambda: processes_of("compile capture", 2000),
        lambda found: len(found) == 1,
        timeout=30,
        what="the sidecar",
    )

    def received() -> int:
        return sum(path.stat().st_size for path in staging.glob("*/bundle/archive.tar*"))

    seen = eventually(received, timeout=60, what="what the agent receives", pause=0.002)
    os.kill(sidecar, signal.SIGKILL)
    plane.kubectl("delete", "pod", "killed", "--grace-period=0", "--force")
    assert seen < 128 * MIB
    told = eventually(
        lambda: logged(agent_log(cluster, node))["compile.request.refused"],
        lambda line: line["compile_cache"] == "large",
        what="the agent's word",
    )
    assert told["reason"] == "Incomplete"
    assert told["caller"] == f"default/killed (default/{PUBLISHER})"
    eventually(lambda: not list(staging.iterdir()), what="an empty staging")
    assert not (node.disk / "modelcache/compile/large").exists()
    assert names_at(node) == {"graphs"}
    assert not list((node.disk / "place/.staging").glob("*"))
    assert report(plane, "large")["state"] == "Missing"
    assert plane.api(f"{CACHES}/large")["status"].get("bundles", []) == []
    print(plane.kubectl("get", "compilecaches,nodecaches,pods", "-A", "-o", "wide"))


# What is looked at


def report(plane: ControlPlane, name: str) -> dict[str, Any]:
    """What the node's NodeCache says of a compile cache; empty where nothing."""
    reports = node_cache(plane, NODE).get("status", {}).get("compileCaches", [])
    found = [each for each in reports if each["name"] == name]
    return dict(found[0]) if found else {}


def said(node: RealKubelet, pod: str) -> dict[str, Any]:
    """What the engine of a pod said of its cache."""
    return dict(json.loads(node.logs("default", pod, "engine").splitlines()[0]))


def container(plane: ControlPlane, pod: str, name: str) -> dict[str, Any]:
    """A container's status."""
    statuses = plane.api(f"/api/v1/namespaces/default/pods/{pod}")["status"]["containerStatuses"]
    return next(each for each in statuses if each["name"] == name)


def logged(text: str) -> dict[str, dict[str, Any]]:
    """The last line of each event in a container's log."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return {line["event"]: line for line in lines}


def agent_log(cluster: World, node: RealKubelet) -> str:
    pod = agent_pod(cluster.plane, NODE)["metadata"]["name"]
    return node.logs(NAMESPACE, pod, "agent")


def volume(uid: str, name: str) -> str:
    """Where an emptyDir of a pod is on its node."""
    return f"/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/{name}"


def content_of(bundle: Path) -> dict[str, tuple[str, int]]:
    """The files of a bundle, with what is in them."""
    return {
        path.name: (sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in bundle.iterdir()
    }


def names_at(node: RealKubelet) -> set[str]:
    """The compile caches of which something was published."""
    bundles = [path.parent for path in (node.disk / "place").glob("*/*/bundle.json")]
    assert all(len(list(bundle.iterdir())) == 2 for bundle in bundles)
    return {LocalBundle.open(bundle).statement.name for bundle in bundles}


def processes_of(command: str, user: int) -> list[int]:
    """The processes of a user whose command line ends so, by their numbers out here."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            if line.endswith(command) and process.stat().st_uid == user:
                found.append(int(process.name))
        except OSError:
            continue
    return found
