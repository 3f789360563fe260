"""The agent's settings: each an environment variable `MODELCACHE_…` and a flag of the same name.

The descriptions here are the help texts of the flags.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from modelcache.api.cachedmodel import DURATION_PATTERN, duration_seconds
from modelcache.api.meta import NAME_PATTERN, SUBDOMAIN_PATTERN

LABEL_KEY_PATTERN = (
    r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
)
"""Keys of labels and taints: apimachinery's `IsQualifiedName`."""

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_UNITS |= {f"{unit}i": 2 ** (10 * power) for power, unit in enumerate("kmgtp", start=1)}
_SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*((?:[kmgtp]i?)?)b?")


def parse_size(text: str) -> int:
    """Bytes of `500M`, `10Gi` or `1048576`, as Kubernetes writes quantities.

    Raises:
        ValueError
    """
    found = _SIZE.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is not a size: write 500M, 10Gi or a number of bytes")
    return int(float(found[1]) * _UNITS[found[2]])


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _comma_separated(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _share_or_size(value: object) -> object:
    text = str(value).strip()
    if not text.endswith("%"):
        parse_size(text)
    elif not re.fullmatch(r"[0-9]{1,2}(\.[0-9]{1,6})?", text[:-1]):
        raise ValueError(f"{text!r} is not a share: write 0% to 99%, or a size such as 20Gi")
    return text


def _node_name(value: object) -> object:
    if not re.fullmatch(SUBDOMAIN_PATTERN, str(value)) or len(str(value)) > 253:
        raise ValueError(
            f"{value!r} can't be a node's name: lower-case letters, digits, hyphens and dots"
        )
    return value


def _seconds(value: object) -> object:
    if value in ("never", None):
        return None
    if isinstance(value, str):
        if not re.fullmatch(DURATION_PATTERN, value):
            raise ValueError(f"{value!r} is not a duration: write 90s, 10m, 1h30m, 2d or never")
        return float(duration_seconds(value))
    return value


def _namespace(value: object) -> object:
    if not re.fullmatch(NAME_PATTERN, str(value)) or len(str(value)) > 63:
        raise ValueError(
            f"{value!r} can't be a namespace: lower-case letters, digits and hyphens, at most 63"
        )
    return value


def _listen(value: object) -> object:
    text = str(value)
    host, colon, port = text.rpartition(":")
    written = colon and re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= 65535
    if text and (not written or (":" in host and not host.startswith("["))):
        raise ValueError(f"{text!r} is not written address:port, such as 0.0.0.0:8080")
    return value


def parse_listen(listen: str) -> tuple[str, int] | None:
    """(host, port) of a `Listen`; None for an empty one."""
    if not listen:
        return None
    host, _, port = listen.rpartition(":")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - as asked for


Listen = Annotated[str, BeforeValidator(_listen)]
Namespace = Annotated[str, BeforeValidator(_namespace)]
Size = Annotated[int, BeforeValidator(_size), Field(gt=0)]
ShareOrSize = Annotated[str, BeforeValidator(_share_or_size)]
Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_comma_separated)]
Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)]


STARTUP_TAINT: Final = "modelcache.dev/not-ready"
"""Key of the startup taint, unless the operator chose another."""

AUTOSCALERS_STARTUP_TAINTS: Final = "startup-taint.cluster-autoscaler.kubernetes.io/"
"""What cluster-autoscaler (1.29 and newer) takes for a startup taint without being told."""


class StoreSettings(BaseSettings):
    """Where the cache is. What every command needs."""

    model_config = SettingsConfigDict(env_prefix="MODELCACHE_", extra="ignore", frozen=True)

    root: Path = Field(
        Path("/var/lib/modelcache"),
        description="Directory that holds everything: one file system, nothing else in it.",
    )
    keep_free: ShareOrSize = Field(
        "5%",
        description="What the cache leaves free of its file system: a share (5%) or a size (20Gi).",
    )
    secrets_dir: Path | None = Field(
        None,
        description="Directory of Secrets, one folder each with a file for each key, as mounted in"
        " a pod. `secretName` is looked up there.",
    )

    @property
    def keep_free_parts(self) -> tuple[int, float]:
        """(bytes, ratio): one of them is zero."""
        if self.keep_free.endswith("%"):
            return 0, float(self.keep_free[:-1]) / 100
        return parse_size(self.keep_free), 0.0


class FetchSettings(StoreSettings):
    """How hard to pull. What every command that fetches needs."""

    connections: int = Field(
        8, ge=1, le=64, description="Connections over which bytes come, for all models together."
    )
    bandwidth: Size | None = Field(
        None,
        description="Limit in bytes a second for all together, such as 200Mi; none by default.",
    )


class AgentSettings(FetchSettings):
    """The daemon."""

    catalog: Path | None = Field(
        None,
        description="What this node is to hold: a YAML file, or a directory of them, watched. By"
        " default /etc/modelcache/catalog; with --cluster, the CachedModels of the API server.",
    )
    cluster: bool = Field(
        False,
        description="Speak to the API server: report as NodeCache, label the node, and take the"
        " catalog and the node's labels from there.",
    )
    kubeconfig: Path | None = Field(
        None,
        description="How to reach the API server; by default as a pod does.",
    )
    namespace: Namespace = Field(
        default_factory=lambda: os.environ.get("POD_NAMESPACE") or "modelcache-system",
        description="Where the agents' Leases are; by default POD_NAMESPACE from the environment.",
        validate_default=True,
    )
    report_seconds: float = Field(
        5.0, ge=1, le=3600, description="The NodeCache is written at most once in so many seconds."
    )
    nodes_at_once: int = Field(
        32,
        ge=0,
        le=1000,
        description="Nodes of a cluster that fetch the same revision at the same time; 0 for no"
        " limit.",
    )
    delete_unwanted_after: Annotated[float | None, BeforeValidator(_seconds)] = Field(
        "10m",
        description="With --cluster: how long content is kept that nothing wants any more, such as"
        " 10m, 1d or never. While a pod uses it, it stays in any case.",
        validate_default=True,
    )
    node_name: Annotated[str, BeforeValidator(_node_name)] = Field(
        default_factory=lambda: os.environ.get("NODE_NAME") or socket.gethostname().lower(),
        description="This node's name, in reports and for node affinity; by default NODE_NAME"
        " from the environment, or the host's.",
        validate_default=True,
    )
    node_labels: Texts = Field(
        (),
        description="This node's labels (key=value, comma-separated), for nodeSelector and"
        " nodeAffinity. Without any, every object of the catalog is for this node.",
    )
    file_roots: Paths = Field(
        (),
        description="Directories (comma-separated) below which file:// sources may lie. None by"
        " default, so that a catalog can't publish what it shouldn't.",
    )
    models_at_once: int = Field(
        8, ge=1, le=256, description="Models that are fetched side by side."
    )
    max_labels: int = Field(
        32, ge=0, le=1000, description="Models that the node is labelled with at most."
    )
    listen: Listen = Field(
        "127.0.0.1:8080",
        description="Address and port for /livez, /readyz, /metrics and /v1/node; empty for none.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="json, console, or auto: console on a terminal."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important lines to write."
    )

    @field_validator("node_labels")
    @classmethod
    def _are_pairs(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        for label in labels:
            if not re.fullmatch(r"[^=]+=[^=]*", label):
                raise ValueError(f"{label!r} is not written key=value")
        return labels

    @field_validator("file_roots")
    @classmethod
    def _are_absolute(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in roots:
            if not root.is_absolute():
                raise ValueError(f"{str(root)!r} is not an absolute path")
        return roots

    @property
    def catalog_path(self) -> Path | None:
        """The catalog's file or directory; None where it is the API server's."""
        if self.catalog is None and not self.cluster:
            return Path("/etc/modelcache/catalog")
        return self.catalog

    @property
    def labels(self) -> dict[str, str] | None:
        """The node's labels; None when none are known."""
        if not self.node_labels:
            return None
        pairs = [label.partition("=") for label in self.node_labels]
        return {key: value for key, _, value in pairs}

    @property
    def address(self) -> tuple[str, int] | None:
        """(host, port) to listen on."""
        return parse_listen(self.listen)


class ControllerSettings(BaseSettings):
    """The controller of a cluster."""

    model_config = SettingsConfigDict(env_prefix="MODELCACHE_", extra="ignore", frozen=True)

    kubeconfig: Path | None = Field(
        None,
        description="How to reach the API server; by default as a pod does.",
    )
    namespace: Namespace = Field(
        default_factory=lambda: os.environ.get("POD_NAMESPACE") or "modelcache-system",
        description="Where the Leases are; by default POD_NAMESPACE from the environment.",
        validate_default=True,
    )
    identity: str = Field(
        default_factory=lambda: (
            os.environ.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}"
        ),
        min_length=1,
        max_length=253,
        description="This replica's name in the Lease; by default POD_NAME from the environment, or"
        " the host's name and the process.",
    )
    startup_taint: str = Field(
        "modelcache.dev/not-ready",
        description="Key of the taint that comes off a node once its models are there; empty: no"
        " taint is touched.",
    )
    startup_deadline: Annotated[float, BeforeValidator(_seconds)] = Field(
        "15m",
        gt=0,
        description="The startup taint comes off in any case when a node is so old.",
        validate_default=True,
    )
    status_seconds: float = Field(
        3.0,
        ge=0.1,
        le=3600,
        description="The status of one CachedModel is written at most once in so many seconds.",
    )
    listen: Listen = Field(
        "127.0.0.1:8080",
        description="Address and port for /livez, /readyz and /metrics; empty for none.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="json, console, or auto: console on a terminal."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important lines to write."
    )

    @field_validator("startup_taint")
    @classmethod
    def _is_key(cls, key: str) -> str:
        if key and not re.fullmatch(LABEL_KEY_PATTERN, key):
            raise ValueError(
                f"{key!r} can't be a taint's key: write it as modelcache.dev/not-ready"
            )
        return key

    @property
    def address(self) -> tuple[str, int] | None:
        """(host, port) to listen on."""
        return parse_listen(self.listen)


class PrepareSettings(StoreSettings):
    """What makes a directory of a node the agent's."""

    require_mount: Path | None = Field(
        None,
        description="Refuse a root that is not on a file system mounted at this directory of the"
        " host, or below it.",
    )
    host_mountinfo: Path | None = Field(
        None,
        description="The host's /proc/1/mountinfo, in a container that has it mounted: what"
        " --require-mount is looked up in.",
    )
    agent_id: int = Field(
        65532, ge=1, le=2**31 - 1, description="User and group id that the agent runs with."
    )

    @field_validator("root", "require_mount")
    @classmethod
    def _is_absolute(cls, path: Path | None) -> Path | None:
        if path is not None and (not path.is_absolute() or ".." in path.parts):
            raise ValueError(f"{str(path)!r} is not an absolute path")
        return path


class CleanupSettings(BaseSettings):
    """What takes everything of ours off the nodes of a cluster."""

    model_config = SettingsConfigDict(env_prefix="MODELCACHE_", extra="ignore", frozen=True)

    kubeconfig: Path | None = Field(
        None,
        description="How to reach the API server; by default as a pod does.",
    )
    namespace: Namespace = Field(
        default_factory=lambda: os.environ.get("POD_NAMESPACE") or "modelcache-system",
        description="Where the agents run; by default POD_NAMESPACE from the environment.",
        validate_default=True,
    )
    startup_taints: Texts = Field(
        (STARTUP_TAINT, f"{AUTOSCALERS_STARTUP_TAINTS}modelcache"),
        description="Keys of startup taints (comma-separated), as the controller has it; empty: no"
        " taint is touched.",
        validate_default=True,
    )
    agents_end: Annotated[float, BeforeValidator(_seconds)] = Field(
        "2m",
        ge=0,
        description="How long to wait for the agents' pods to end.",
        validate_default=True,
    )


class WebhookSettings(BaseSettings):
    """What gives pods that ask for models their affinity and mounts, when they are created."""

    model_config = SettingsConfigDict(env_prefix="MODELCACHE_", extra="ignore", frozen=True)

    kubeconfig: Path | None = Field(
        None,
        description="How to reach the API server; by default as a pod does.",
    )
    namespace: Namespace = Field(
        default_factory=lambda: os.environ.get("POD_NAMESPACE") or "modelcache-system",
        description="Where the webhook runs; by default POD_NAMESPACE from the environment.",
        validate_default=True,
    )
    root: Path = Field(
        Path("/var/lib/modelcache"), description="The cache's root on the nodes, as the agents'."
    )
    image: str = Field(
        "",
        description="Image for the init container of injected pods; by default that of the"
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
    tls_dir: Path | None = Field(
        None,
        description="Directory with tls.crt and tls.key, read again when they change. Without it"
        " the webhook makes its certificate itself, and renews it.",
    )
    service: Annotated[str, BeforeValidator(_namespace)] = Field(
        "modelcache-webhook", description="The Service by which the API server calls."
    )
    names: Texts = Field(
        (),
        description="More names and addresses (comma-separated) that its own certificate is for.",
    )
    configuration: str = Field(
        "modelcache-webhook",
        description="The MutatingWebhookConfiguration whose caBundle is kept right.",
    )
    certificate_lifetime: Annotated[float, BeforeValidator(_seconds)] = Field(
        "90d",
        ge=30,
        description="Of its own certificate; renewed when a third is left.",
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
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="json, console, or auto: console on a terminal."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important lines to write."
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
