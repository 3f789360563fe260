"""The settings of `modelcache webhook`, and of what injects without it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from modelcache.compilecache.pods.protocol import PORT
from modelcache.settings.shared import ClusterSettings, LogSettings
from modelcache.settings.values import Listen, Namespace, Seconds, Texts, parse_listen


class WebhookSettings(ClusterSettings, LogSettings):
    """What gives pods that ask for models their affinity and mounts, when they are created."""

    root: Path = Field(
        Path("/var/lib/modelcache"), description="The cache's root on the nodes, as the agents'."
    )
    image: str = Field(
        "",
        description="Image for the containers that injected pods get; by default that of the"
        " container `webhook` of the webhook's own pod.",
    )
    pod_name: str = Field(
        default_factory=lambda: os.environ.get("POD_NAME", ""),
        description="The webhook's own pod; by default POD_NAME from the environment.",
    )
    pod_security: Literal["privileged", "baseline", "restricted"] = Field(
        "privileged",
        description="What Pod Security enforces in namespaces that don't say so by their label.",
    )
    compile_port: int = Field(
        PORT,
        ge=0,
        le=65535,
        description="Where the agents take what pods have compiled (their --compile-listen), on the"
        " node's address; 0: nowhere, and pods get no sidecar.",
    )
    sidecars: Literal["auto", "native", "ordinary"] = Field(
        "auto",
        description="What the sidecar of pods with a compile cache is: native (an init container"
        " with restartPolicy Always, from Kubernetes 1.29 on), ordinary (a container), or auto:"
        " native where the API server knows it.",
    )
    tls_dir: Path | None = Field(
        None,
        description="Directory with tls.crt and tls.key, read again when they change. Without it"
        " the webhook makes its certificate itself, and renews it.",
    )
    webhook_service: Namespace = Field(
        "modelcache-webhook", description="The Service by which the API server calls."
    )
    certificate_names: Texts = Field(
        (),
        description="More names and addresses (comma-separated) that a certificate of its own is"
        " for.",
    )
    webhook_configuration: str = Field(
        "modelcache-webhook",
        description="The MutatingWebhookConfiguration whose caBundle is kept right.",
    )
    certificate_lifetime: Seconds = Field(
        "90d",
        ge=30,
        description="How long a certificate of its own is valid; the webhook renews it when a third"
        " is left.",
        validate_default=True,
    )
    drain_seconds: float = Field(
        5.0,
        ge=0,
        le=300,
        description="How long to go on answering after SIGTERM, until nobody asks any more.",
    )
    listen: Listen = Field("0.0.0.0:9443", description="Address and port for HTTPS.")
    plain_listen: Listen = Field(
        "127.0.0.1:8081",
        description="Address and port for /livez, /readyz and /metrics; empty for none.",
    )

    @field_validator("root")
    @classmethod
    def _is_absolute(cls, root: Path) -> Path:
        if not root.is_absolute() or ".." in root.parts:
            raise ValueError(f"{str(root)!r} is not an absolute path")
        return root

    @field_validator("listen")
    @classmethod
    def _is_somewhere(cls, listen: str) -> str:
        if not listen:
            raise ValueError("it has to listen somewhere")
        return listen

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) for HTTPS."""
        address = parse_listen(self.listen)
        assert address is not None
        return address

    @property
    def plain_address(self) -> tuple[str, int] | None:
        """(host, port) for the plain endpoints."""
        return parse_listen(self.plain_listen)
