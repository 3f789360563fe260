from __future__ import annotations

import base64
from pathlib import Path

import pytest
import yaml

from modelcache.cli.options import settings
from modelcache.errors import UsageError
from modelcache.service.certificates import Certificate, fault, service_names
from modelcache.settings import WebhookSettings
from tests.unit.cli.conftest import Command


def test_namespace_and_pod_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(WebhookSettings).namespace == "modelcache-system"
    monkeypatch.setenv("POD_NAMESPACE", "elsewhere")
    monkeypatch.setenv("POD_NAME", "controller-1")
    found = settings(WebhookSettings)
    assert (found.namespace, found.pod_name) == ("elsewhere", "controller-1")


def test_it_listens_apart_for_kubelet_and_api_server() -> None:
    found = settings(WebhookSettings, listen="[::]:9443", plain_listen="")
    assert found.address == ("::", 9443)
    assert found.plain_address is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("listen", "", "somewhere"),
        ("listen", "9443", "address:port"),
        ("root", "cache", "absolute"),
        ("root", "/a/../b", "absolute"),
        ("certificate_lifetime", "never", "number"),
        ("certificate_lifetime", "29s", "30"),
        ("certificate_lifetime", "soon", "duration"),
        ("pod_security", "strict", "restricted"),
        ("webhook_service", "a.b", "can't be a"),
    ],
)
def test_what_cant_be_right_is_told(name: str, value: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as told:
        settings(WebhookSettings, **{name: value})
    assert f"MODELCACHE_{name.upper()}" in str(told.value)


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_certificate_is_printed_that_is_good(command: Command, output: str) -> None:
    ended = command(
        "webhook-certificate", "--webhook-service", "s", "--namespace", "n", "-o", output
    )
    assert ended.code == 0
    secret = ended.document["secret"] if output == "json" else yaml.safe_load(ended.out)
    assert (secret["kind"], secret["metadata"]["namespace"]) == ("Secret", "n")
    data = {name: base64.b64decode(value) for name, value in secret["data"].items()}
    found = Certificate(data["tls.crt"], data["tls.key"], data["ca.crt"])
    assert fault(found, service_names("s", "n")) == ""
    assert f"caBundle: {secret['data']['ca.crt']}" in ended.out or output == "json"
    assert output == "table" or ended.document["caBundle"] == secret["data"]["ca.crt"]


def test_that_there_is_no_way_to_the_api_server_is_told(command: Command, tmp_path: Path) -> None:
    missing = tmp_path / "kubeconfig"
    assert "API server" in command("webhook", "--kubeconfig", missing).mistake
