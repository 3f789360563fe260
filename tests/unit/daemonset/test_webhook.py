"""The webhook's manifests fit its program."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.cli.main import COMMANDS
from modelcache.cluster.injection import INJECT_LABEL
from modelcache.service.certifying import SECRET
from modelcache.service.webhook import CONTAINER, Webhook
from modelcache.settings import WebhookSettings
from tests.support.manifests import FOLDER, Object, kustomizations, objects, one, patches, pods

COMPONENT = FOLDER / "components" / "webhook"
DOCUMENTS = objects(COMPONENT)
(HOOK,) = one(DOCUMENTS, "MutatingWebhookConfiguration", "modelcache-webhook")["webhooks"]
DEFAULTS = WebhookSettings()


@pytest.fixture
def container() -> Object:
    (found,) = (
        step["value"]
        for target, step in patches(kustomizations()[COMPONENT])
        if target["kind"] == "Deployment"
    )
    assert isinstance(found, dict)
    return found


def arguments(container: Object) -> dict[str, str]:
    command, *flags = container["args"]
    assert command in COMMANDS
    return dict(zip(flags[::2], flags[1::2], strict=True))


def test_it_calls_what_answers(container: Object, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "{clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], users: [],"
        " contexts: [{name: c, context: {cluster: c}}], current-context: c}"
    )
    webhook = Webhook(
        WebhookSettings(kubeconfig=kubeconfig, listen="127.0.0.1:0", plain_listen="127.0.0.1:0")
    )
    assert webhook._endpoints is not None
    try:
        routes = webhook._endpoints._server.routes.keys()
        asked = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness")}
        assert {*asked, container["readinessProbe"]["httpGet"]["path"]} <= routes
        assert HOOK["clientConfig"]["service"]["path"] == webhook._server._server.path
    finally:
        webhook._endpoints.close()
        webhook._server.close()


def test_ports(container: Object) -> None:
    ports = {port["name"]: f"0.0.0.0:{port['containerPort']}" for port in container["ports"]}
    flags = arguments(container)
    assert ports == {"webhook": flags["--listen"], "webhook-http": flags["--plain-listen"]}
    for kind in ("startup", "liveness", "readiness"):
        assert container[f"{kind}Probe"]["httpGet"]["port"] == "webhook-http"
    service = one(DOCUMENTS, "Service", DEFAULTS.webhook_service)
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] == "webhook"
    assert port["port"] == HOOK["clientConfig"]["service"]["port"] == 443
    base = objects(FOLDER / "base")
    labels = one(base, "Deployment", "modelcache-controller")["spec"]["template"]["metadata"]
    assert service["spec"]["selector"].items() <= labels["labels"].items()
    # No port of the controller's container is taken twice.
    (controller,) = pods(base)["modelcache-controller"]["containers"]
    assert not {p["containerPort"] for p in controller["ports"]} & {
        p["containerPort"] for p in container["ports"]
    }


def test_names(container: Object) -> None:
    assert container["name"] == CONTAINER
    assert HOOK["clientConfig"]["service"]["name"] == DEFAULTS.webhook_service
    assert DEFAULTS.webhook_configuration == "modelcache-webhook"
    secret = one(DOCUMENTS, "Secret", SECRET)
    assert secret["type"] == "Opaque"
    assert "data" not in secret  # or every apply would take the certificate away
    assert "caBundle" not in HOOK["clientConfig"]


def test_it_asks_for_pods_that_ask_for_it() -> None:
    assert HOOK["objectSelector"] == {"matchLabels": {INJECT_LABEL: "true"}}
    (rule,) = HOOK["rules"]
    assert (rule["operations"], rule["resources"], rule["apiGroups"]) == (
        ["CREATE"],
        ["pods"],
        [""],
    )
    (namespaces,) = HOOK["namespaceSelector"]["matchExpressions"]
    assert namespaces["operator"] == "NotIn"
    assert set(namespaces["values"]) == {"kube-system", "modelcache-system"}


def test_it_never_stands_in_the_way() -> None:
    assert HOOK["failurePolicy"] == "Ignore"
    assert HOOK["timeoutSeconds"] == 2
    assert HOOK["sideEffects"] == "None"
    assert HOOK["reinvocationPolicy"] == "IfNeeded"


def test_the_pod_outlives_what_it_still_answers() -> None:
    pod = pods(objects(FOLDER / "base"))["modelcache-controller"]
    assert DEFAULTS.drain_seconds + 5 <= pod["terminationGracePeriodSeconds"]
