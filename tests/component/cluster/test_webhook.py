"""The webhook as a process, with its own rights, called by the real API server."""

from __future__ import annotations

import base64
import json
import signal
import socket
import ssl
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from modelcache.service.certificates import make_certificate
from tests.support.apifaults import ApiFaults
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually
from tests.support.webhook import (
    IMAGE,
    NAMESPACE,
    USER,
    WebhookProcess,
    webhook_account,
    webhook_documents,
)

SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/modelcache-webhook-tls"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
CONFIGURATION = f"{CONFIGURATIONS}/modelcache-webhook"
PODS = "/api/v1/namespaces/default/pods"
EXPRESSION = {"key": "modelcache.dev/model.llama", "operator": "In", "values": ["Ready"]}

TEMPLATE: dict[str, Any] = {
    "metadata": {
        "labels": {"app": "engine", "modelcache.dev/inject": "true"},
        "annotations": {"modelcache.dev/model": "llama"},
    },
    "spec": {"containers": [{"name": "engine", "image": "engine:1"}]},
}

Start = Callable[..., WebhookProcess]


@pytest.fixture
def account(cluster: ControlPlane) -> Iterator[Path]:
    """The webhook's kubeconfig. Secret and configuration are gone after the test."""
    kubeconfig = webhook_account(cluster)
    body = {"source": {"uri": "hf://meta-llama/Llama"}}
    cluster.apply(
        {
            "apiVersion": "modelcache.dev/v1alpha1",
            "kind": "CachedModel",
            "metadata": {"name": "llama"},
            "spec": body,
        }
    )
    yield kubeconfig
    for path in (SECRET, CONFIGURATION):
        if cluster.find(path) is not None:
            cluster.api(path, "DELETE")


@pytest.fixture
def start(account: Path) -> Iterator[Start]:
    """Starts webhooks that end with the test."""
    begun: list[WebhookProcess] = []

    def call(*flags: str | Path, kubeconfig: Path = account, **more: Any) -> WebhookProcess:
        begun.append(WebhookProcess(kubeconfig, *flags, **more))
        return begun[-1]

    yield call
    for webhook in begun:
        with webhook:
            pass


def configure(cluster: ControlPlane, url: str) -> None:
    """The configuration of the manifests, but for a webhook outside of the cluster, and so without
    the selector that asks for labels which servers of version 1.20 don't set."""
    _, configuration = webhook_documents()
    (hook,) = configuration["webhooks"]
    hook["clientConfig"] = {"url": url}
    del hook["namespaceSelector"]
    cluster.apply(configuration)


def bundle(cluster: ControlPlane) -> str:
    (hook,) = cluster.api(CONFIGURATION)["webhooks"]
    return base64.b64decode(hook["clientConfig"].get("caBundle", "")).decode()


def pod(name: str = "p", annotations: dict[str, str] | None = None) -> dict[str, Any]:
    metadata = {**TEMPLATE["metadata"], "name": name}
    metadata["annotations"] = {**metadata["annotations"], **(annotations or {})}
    return {"apiVersion": "v1", "kind": "Pod", **TEMPLATE, "metadata": metadata}


def would_be(
    cluster: ControlPlane, path: str = PODS, **annotations: str
) -> tuple[dict[str, Any], list[str]]:
    """A pod as it would be, and the warnings that come with it."""
    given = {f"modelcache.dev/{name}": value for name, value in annotations.items()}
    with cluster.open(f"{path}?dryRun=All", "POST", pod(annotations=given)) as answer:
        return json.loads(answer.read()), answer.headers.get_all("Warning") or []


def works(cluster: ControlPlane) -> dict[str, Any]:
    """Wait until the API server calls the webhook and trusts it; a pod as it is then."""
    found = eventually(
        lambda: would_be(cluster)[0],
        lambda pod: "affinity" in pod["spec"],
        what="an injected pod",
    )
    return dict(found)


def ready(webhook: WebhookProcess) -> None:
    eventually(lambda: webhook.get("/readyz"), what="readiness")


def review(namespace: str = "default") -> bytes:
    request = {
        "uid": "1",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "operation": "CREATE",
        "namespace": namespace,
        "object": pod(),
    }
    document = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    return json.dumps(document).encode()


def deployment(cluster: ControlPlane, name: str) -> dict[str, Any]:
    """A Deployment's one pod, as the controller manager creates it."""
    cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": "engine"}},
                "template": TEMPLATE,
            },
        }
    )
    (found,) = cluster.watch_until(f"{PODS}?labelSelector=app%3Dengine", bool)
    return found


def test_the_pods_of_a_deployment_are_injected(cluster: ControlPlane, start: Start) -> None:
    webhook = start("--image", IMAGE, "--root", "/data/modelcache")
    configure(cluster, webhook.hook)
    works(cluster)
    ready(webhook)
    found = deployment(cluster, "engine")
    spec = found["spec"]
    (term,) = spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term == {"weight": 100, "preference": {"matchExpressions": [EXPRESSION]}}
    paths = {volume.get("hostPath", {}).get("path") for volume in spec["volumes"]}
    assert {"/data/modelcache/models", "/data/modelcache/hub"} <= paths
    (link,) = spec["initContainers"]
    assert link["image"] == IMAGE
    variables = {each["name"]: each["value"] for each in spec["containers"][0]["env"]}
    assert "HF_HUB_CACHE" in variables
    assert 'modelcache_webhook_reviews_total{outcome="injected"}' in webhook.get("/metrics")


def test_with_the_webhook_down_pods_are_created_as_they_are(
    cluster: ControlPlane, start: Start
) -> None:
    webhook = start("--image", IMAGE)
    configure(cluster, webhook.hook)
    works(cluster)
    webhook.kill()
    spec = deployment(cluster, "engine")["spec"]
    assert "affinity" not in spec
    assert "initContainers" not in spec


def test_with_the_webhook_hanging_pods_are_created_as_they_are(
    cluster: ControlPlane, start: Start
) -> None:
    webhook = start("--image", IMAGE)
    configure(cluster, webhook.hook)
    works(cluster)
    webhook.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert "affinity" not in would_be(cluster)[0]["spec"]
    assert time.monotonic() - began < 5
    webhook.process.send_signal(signal.SIGCONT)
    works(cluster)


def test_who_creates_a_pod_is_warned(cluster: ControlPlane, start: Start) -> None:
    webhook = start("--image", IMAGE)
    configure(cluster, webhook.hook)
    works(cluster)
    found, warnings = would_be(cluster, model="llama,other", affinity="sometimes")
    assert len(warnings) == 2
    assert any("other" in warning for warning in warnings)
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    assert len(found["spec"]["affinity"]["nodeAffinity"][preferred]) == 2


def test_a_strict_namespace_gets_affinity_only(cluster: ControlPlane, start: Start) -> None:
    webhook = start("--image", IMAGE)
    configure(cluster, webhook.hook)
    works(cluster)
    ready(webhook)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    # A moment old: the watch need not have told of it.
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "strict", "labels": labels},
        }
    )
    cluster.await_service_account("strict")
    found, warnings = would_be(cluster, "/api/v1/namespaces/strict/pods")
    assert "affinity" in found["spec"]
    assert "initContainers" not in found["spec"]
    if any("can't be found out" in warning for warning in warnings):
        # The API server did not tell it in time, so it assumed the worst.
        warnings = eventually(
            lambda: would_be(cluster, "/api/v1/namespaces/strict/pods")[1],
            lambda warnings: all("can't be found out" not in warning for warning in warnings),
        )
    assert any("restricted" in warning for warning in warnings)
    # The label is taken off.
    gone = {"metadata": {"labels": dict.fromkeys(labels)}}
    cluster.api("/api/v1/namespaces/strict", "PATCH", gone, "merge-patch+json")
    eventually(
        lambda: would_be(cluster, "/api/v1/namespaces/strict/pods")[0]["spec"],
        lambda spec: "initContainers" in spec,
    )


def test_models_are_known_as_they_come(cluster: ControlPlane, start: Start) -> None:
    webhook = start("--image", IMAGE)
    configure(cluster, webhook.hook)
    works(cluster)
    ready(webhook)
    assert would_be(cluster, model="bucket")[1]
    cluster.apply(
        {
            "apiVersion": "modelcache.dev/v1alpha1",
            "kind": "CachedModel",
            "metadata": {"name": "bucket"},
            "spec": {"source": {"uri": "s3://weights/bucket"}},
        }
    )
    found, _ = eventually(
        lambda: would_be(cluster, model="bucket"), lambda answer: not answer[1], what="no warning"
    )
    # No hub has it: only the plain views are mounted.
    paths = [volume.get("hostPath", {}).get("path", "") for volume in found["spec"]["volumes"]]
    assert "/var/lib/modelcache/models" in paths
    assert "/var/lib/modelcache/hub" not in paths


def test_the_image_is_that_of_its_own_pod(cluster: ControlPlane, start: Start) -> None:
    own = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "modelcache-controller-x", "namespace": NAMESPACE},
        "spec": {
            "containers": [
                {"name": "controller", "image": "other:1"},
                {"name": "webhook", "image": "mirror.example/modelcache@sha256:" + "0" * 64},
            ]
        },
    }
    cluster.await_service_account(NAMESPACE)
    cluster.apply(own)
    env = {"POD_NAME": "modelcache-controller-x", "POD_NAMESPACE": NAMESPACE}
    webhook = start(env=env)
    configure(cluster, webhook.hook)
    # Known before anybody asks it.
    ready(webhook)
    assert "webhook.image" in [event["event"] for event in webhook.events]
    (link,) = works(cluster)["spec"]["initContainers"]
    assert link["image"] == own["spec"]["containers"][1]["image"]  # type: ignore[index]


def test_two_replicas_share_a_certificate_and_renew_it_without_a_gap(
    cluster: ControlPlane, start: Start
) -> None:
    """For 30 seconds of life: renewed after 20, while somebody connects all the time."""
    configure(cluster, "https://127.0.0.1:1/mutate")
    both = [start("--certificate-lifetime", "30s") for _ in range(2)]
    for webhook in both:
        ready(webhook)
    first = eventually(lambda: bundle(cluster))
    certificates = {webhook.shown(first) for webhook in both}
    assert len(certificates) == 1
    assert len(made(both)) == 1

    failures: list[str] = []
    over = threading.Event()

    def connect() -> None:
        while not over.wait(0.05):
            # As an API server whose watch is a moment behind.
            trusted = bundle(cluster)
            time.sleep(0.5)
            for webhook in both:
                try:
                    webhook.shown(trusted)
                except ssl.SSLError as error:
                    failures.append(str(error))

    connecting = threading.Thread(target=connect)
    connecting.start()
    try:
        for webhook in both:
            eventually(webhook.shown, lambda shown: shown not in certificates, timeout=40)
        time.sleep(1.0)
    finally:
        over.set()
        connecting.join(10)
    assert failures == []
    assert len({webhook.shown(bundle(cluster)) for webhook in both}) == 1
    assert len(made(both)) == 2
    data = cluster.api(SECRET)["data"]
    assert base64.b64decode(data["ca.crt"]).decode() == bundle(cluster)
    assert bundle(cluster).count("BEGIN") == 2


def made(webhooks: list[WebhookProcess]) -> list[dict[str, Any]]:
    events = [event for webhook in webhooks for event in webhook.events]
    return [event for event in events if event["event"] == "webhook.certificate.made"]


def test_a_configuration_that_loses_its_bundle_gets_it_back(
    cluster: ControlPlane, start: Start
) -> None:
    webhook = start("--certificate-lifetime", "90s", "--image", IMAGE)
    configure(cluster, webhook.hook)
    before = eventually(lambda: bundle(cluster))
    cluster.api(CONFIGURATION, "DELETE")
    webhook.wait_for_event("webhook.configuration.missing")
    configure(cluster, webhook.hook)
    assert eventually(lambda: bundle(cluster)) == before
    works(cluster)


def test_a_secret_that_was_deleted_is_not_missed_before_it_is_needed(
    cluster: ControlPlane, start: Start
) -> None:
    """Without the right to create one: the manifests have it, and who deletes it gets it back from
    them. Until then the certificate that is shown does."""
    webhook = start("--certificate-lifetime", "60s", "--image", IMAGE)
    configure(cluster, webhook.hook)
    works(cluster)
    secret = cluster.api(SECRET)
    cluster.api(SECRET, "DELETE")
    webhook.wait_for_event("webhook.certificate.failed")
    works(cluster)
    kept = {key: secret["metadata"][key] for key in ("name", "namespace")}
    cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": kept})
    webhook.wait_for_event("webhook.certificate.recovered", timeout=90)
    assert "tls.crt" in cluster.api(SECRET)["data"]


def test_nothing_that_it_asks_for_is_forbidden(cluster: ControlPlane, start: Start) -> None:
    before = len(cluster.requests(user=USER))
    webhook = start("--image", IMAGE)
    configure(cluster, webhook.hook)
    works(cluster)
    ready(webhook)
    asked = [
        (
            request["verb"],
            request["objectRef"]["resource"] if "objectRef" in request else request["requestURI"],
            request["responseStatus"]["code"],
        )
        for request in cluster.requests(user=USER)[before:]
        if request["userAgent"].startswith("modelcache-webhook/") and "responseStatus" in request
    ]
    assert ("list", "namespaces", 200) in asked
    assert [each for each in asked if each[2] == 403] == []


def test_a_certificate_from_files_is_read_again(
    cluster: ControlPlane, start: Start, tmp_path: Path
) -> None:
    one, other = (make_certificate(["127.0.0.1"], timedelta(days=1)) for _ in range(2))

    def write(chain: bytes, key: bytes) -> None:
        (tmp_path / "tls.crt").write_bytes(chain)
        (tmp_path / "tls.key").write_bytes(key)

    write(one.chain, one.key)
    webhook = start("--tls-dir", tmp_path, "--image", IMAGE)
    shown = eventually(lambda: webhook.shown(one.authorities.decode()))
    write(other.chain, one.key)  # half of it is there
    webhook.wait_for_event("webhook.certificate.refused")
    assert webhook.shown(one.authorities.decode()) == shown
    write(other.chain, other.key)
    eventually(lambda: webhook.shown(other.authorities.decode()))
    # The Secret and the configuration are somebody else's.
    assert "data" not in cluster.api(SECRET)
    assert cluster.find(CONFIGURATION) is None


def served(tmp_path: Path) -> tuple[Path, str]:
    """A directory with a certificate, and who has signed it."""
    found = make_certificate(["127.0.0.1"], timedelta(days=1))
    (tmp_path / "tls.crt").write_bytes(found.chain)
    (tmp_path / "tls.key").write_bytes(found.key)
    return tmp_path, found.authorities.decode()


def answer(webhook: WebhookProcess, authorities: str, namespace: str = "default") -> Any:
    with webhook.ask(review(namespace), authorities) as reply:
        return json.loads(reply.read())["response"]


def steps(response: dict[str, Any]) -> set[str]:
    """The fields that a response adds to a pod."""
    patch = json.loads(base64.b64decode(response["patch"]))
    return {step["path"].split("/")[2] for step in patch}


def test_without_an_api_server_pods_get_affinity_only(
    account: Path, cluster: ControlPlane, faults: ApiFaults, start: Start, tmp_path: Path
) -> None:
    """Nobody knows then whether the namespace takes pods with host paths."""
    folder, authorities = served(tmp_path)
    kubeconfig = faults.kubeconfig(account, tmp_path / "kubeconfig")
    faults.down()
    webhook = start("--tls-dir", folder, "--image", IMAGE, kubeconfig=kubeconfig)
    eventually(lambda: webhook.shown(authorities))
    began = time.monotonic()
    response = answer(webhook, authorities)
    assert time.monotonic() - began < 2
    assert response["allowed"] is True
    assert steps(response) == {"affinity"}
    assert any("can't be found out" in warning for warning in response["warnings"])
    with pytest.raises(urllib.error.HTTPError) as refused:
        webhook.get("/readyz")
    assert refused.value.code == 503
    refused.value.close()
    faults.up()
    eventually(lambda: webhook.get("/readyz"))
    assert {"affinity", "volumes", "initContainers"} <= steps(answer(webhook, authorities))
    # What it knows it goes on knowing.
    faults.down()
    assert {"affinity", "volumes", "initContainers"} <= steps(answer(webhook, authorities))
    webhook.get("/readyz")
    faults.up()


def test_bad_requests_are_refused_and_nothing_breaks(
    start: Start, account: Path, tmp_path: Path
) -> None:
    folder, authorities = served(tmp_path)
    webhook = start("--tls-dir", folder, "--image", IMAGE)
    eventually(lambda: webhook.shown(authorities))
    for body, path, status in (
        (b"{}", "/", 404),
        (b"{}", "/mutate", 400),
        (b"rubbish", "/mutate", 400),
        (b" " * (8 * 2**20 + 1), "/mutate", 413),
    ):
        with pytest.raises((urllib.error.HTTPError, urllib.error.URLError)) as refused:
            webhook.ask(body, authorities, path)
        if isinstance(refused.value, urllib.error.HTTPError):
            assert refused.value.code == status
            refused.value.close()
        else:  # closed while what is too much was still being sent
            assert status == 413
    webhook.wait_for_event("webhook.started")
    assert answer(webhook, authorities)["allowed"] is True
    assert not [event for event in webhook.events if event.get("level") == "error"]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("version", "taken"), [("TLSv1_2", True), ("TLSv1_1", False)])
def test_old_tls_is_refused(
    start: Start, account: Path, tmp_path: Path, version: str, taken: bool
) -> None:
    folder, authorities = served(tmp_path)
    webhook = start("--tls-dir", folder, "--image", IMAGE)
    eventually(lambda: webhook.shown(authorities))
    context = ssl.create_default_context(cadata=authorities)
    # A client that would: OpenSSL's own default refuses it before anybody is asked.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with socket.create_connection(webhook.https, 5) as connection:
        expected: AbstractContextManager[object] = (
            nullcontext() if taken else pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION")
        )
        with expected, context.wrap_socket(connection, server_hostname="127.0.0.1"):
            pass
    assert answer(webhook, authorities)["allowed"] is True


def test_a_slow_client_holds_nobody_up(start: Start, account: Path, tmp_path: Path) -> None:
    folder, authorities = served(tmp_path)
    webhook = start("--tls-dir", folder, "--image", IMAGE)
    eventually(lambda: webhook.shown(authorities))
    silent = [socket.create_connection(webhook.https, 5) for _ in range(20)]
    try:
        began = time.monotonic()
        assert answer(webhook, authorities)["allowed"] is True
        assert time.monotonic() - began < 3
    finally:
        for connection in silent:
            connection.close()


def test_who_sends_too_slowly_is_cut_off(start: Start, account: Path, tmp_path: Path) -> None:
    folder, authorities = served(tmp_path)
    webhook = start("--tls-dir", folder, "--image", IMAGE)
    eventually(lambda: webhook.shown(authorities))
    context = ssl.create_default_context(cadata=authorities)
    with (
        socket.create_connection(webhook.https, 10) as connection,
        context.wrap_socket(connection, server_hostname="127.0.0.1") as secure,
    ):
        secure.sendall(b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        began = time.monotonic()
        secure.settimeout(0.25)
        while time.monotonic() - began < 8:
            secure.sendall(b" ")
            try:
                assert secure.recv(100) == b""
                break
            except TimeoutError:
                continue
            except OSError:  # cut off while we sent
                break
    assert 1.5 < time.monotonic() - began < 5


def test_it_ends_when_told_to_after_it_has_answered_for_a_while(
    start: Start, account: Path, tmp_path: Path
) -> None:
    folder, authorities = served(tmp_path)
    webhook = start("--tls-dir", folder, "--image", IMAGE, "--drain-seconds", "2")
    ready(webhook)
    webhook.process.send_signal(signal.SIGTERM)

    def is_not_ready() -> bool:
        try:
            webhook.get("/readyz")
        except urllib.error.HTTPError as error:
            error.close()
            return error.code == 503
        return False

    eventually(is_not_ready, timeout=2)
    assert answer(webhook, authorities)["allowed"] is True
    assert webhook.process.wait(10) == 0
    webhook.wait_for_event("webhook.stopped")


def test_the_end_of_its_certificate_is_a_metric(
    start: Start, account: Path, tmp_path: Path
) -> None:
    folder, authorities = served(tmp_path)
    webhook = start("--tls-dir", folder, "--image", IMAGE)
    eventually(lambda: webhook.shown(authorities))
    name = "modelcache_webhook_certificate_expiry_timestamp_seconds"
    (line,) = [each for each in webhook.get("/metrics").splitlines() if each.startswith(f"{name} ")]
    left = datetime.fromtimestamp(float(line.split()[1]), UTC) - datetime.now(UTC)
    assert timedelta(hours=23) < left < timedelta(hours=25)
