"""A real `modelcache webhook` in a process of its own, with the rights that it is to have."""

from __future__ import annotations

import socket
import ssl
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.agent import DaemonProcess
from tests.support.cluster.plane import ControlPlane
from tests.support.manifests import FOLDER, load, one, patches

NAMESPACE = "modelcache-system"
ACCOUNT = "modelcache-controller"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
IMAGE = "registry.example/modelcache:1"

_ROLES = ("ClusterRole", "Role")


class WebhookProcess(DaemonProcess):
    """`modelcache webhook`, as its ServiceAccount."""

    started = "webhook.started"

    def __init__(
        self, kubeconfig: Path, *flags: str | Path, env: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(
            "webhook",
            *(
                "--kubeconfig",
                kubeconfig,
                "--certificate-names",
                "127.0.0.1",
                "--drain-seconds",
                "0",
            ),
            *("--plain-listen", "127.0.0.1:0", "--log-level", "debug"),
            *flags,
            env=env,
        )

    @property
    def url(self) -> str:
        return f"http://{self.wait_for_event(self.started)['plain_listen']}"

    @property
    def https(self) -> tuple[str, int]:
        """Where the API server is to call."""
        host, _, port = self.wait_for_event(self.started)["listen"].rpartition(":")
        return host, int(port)

    @property
    def hook(self) -> str:
        """The URL that the API server is to call."""
        host, port = self.https
        return f"https://{host}:{port}/mutate"

    def shown(self, authorities: str | None = None) -> bytes:
        """The certificate that it shows (DER); refused unless these authorities have signed it."""
        context = ssl.create_default_context(cadata=authorities)
        if authorities is None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(self.https, 10) as connection,
            context.wrap_socket(connection, server_hostname="127.0.0.1") as secure,
        ):
            found = secure.getpeercert(binary_form=True)
        assert found is not None
        return found

    def ask(self, body: bytes, authorities: str, path: str = "/mutate") -> Any:
        """POST something, trusting some authorities."""
        context = ssl.create_default_context(cadata=authorities)
        request = urllib.request.Request(self.hook.replace("/mutate", path), body)
        return urllib.request.urlopen(request, timeout=10, context=context)


def webhook_documents() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What the webhook's account, Secret and rights are by the manifests, to be applied; and its
    configuration, which is not among them."""
    documents = load(FOLDER / "base" / "controller-rbac.yaml")
    (component,) = load(FOLDER / "components" / "webhook" / "kustomization.yaml")
    for target, step in patches(component):
        if target["kind"] in _ROLES:
            (role,) = [
                each
                for each in documents
                if (each["kind"], each["metadata"]["name"]) == (target["kind"], target["name"])
                and each["metadata"].get("namespace") == target.get("namespace")
            ]
            role["rules"].append(step["value"])
    own = load(FOLDER / "components" / "webhook" / "webhook.yaml")
    documents.append(one(own, "Secret", "modelcache-webhook-tls"))
    return documents, one(own, "MutatingWebhookConfiguration", "modelcache-webhook")


def webhook_account(cluster: ControlPlane) -> Path:
    """A kubeconfig of the webhook's ServiceAccount, with the rights that the manifests give."""
    documents, _ = webhook_documents()
    cluster.apply(*documents)
    return cluster.service_account_kubeconfig(NAMESPACE, ACCOUNT)
