"""The settings of `modelcache agent`."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from modelcache.settings.compilecaches import CompileSettings
from modelcache.settings.shared import ClusterSettings, FetchSettings, LogSettings
from modelcache.settings.values import (
    Endpoint,
    Listen,
    NodeName,
    Paths,
    Seconds,
    SecondsOrNever,
    Share,
    Size,
    Texts,
    parse_listen,
    split_share,
)


class AgentSettings(FetchSettings, ClusterSettings, CompileSettings, LogSettings):
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
    report_seconds: float = Field(
        5.0, ge=1, le=3600, description="The NodeCache is written at most once in so many seconds."
    )
    residency_seconds: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="How often it is measured how much of each model is in the page cache; 0 for"
        " never.",
    )
    nodes_at_once: int = Field(
        32,
        ge=0,
        le=1000,
        description="Nodes of a cluster that fetch the same revision at the same time; 0 for no"
        " limit.",
    )
    start_jitter: Seconds = Field(
        "2s",
        ge=0,
        le=300,
        description="With --cluster and --nodes-at-once: a node waits for a random time up to this"
        " before it asks an origin what a model is, since all nodes learn of it at once.",
        validate_default=True,
    )
    delete_unwanted_after: SecondsOrNever = Field(
        "10m",
        description="How long content is kept that nothing wants any more, such as 10m, 1d or"
        " never. Without --cluster it then stays until room is needed. While it is used, it stays"
        " in any case.",
        validate_default=True,
    )
    high_watermark: Share = Field(
        "90%",
        description="Where the cache takes more than this share of what it may take, content that"
        " nothing wants any more and old revisions go.",
        validate_default=True,
    )
    low_watermark: Share = Field(
        "80%",
        description="Down to this share it goes then.",
        validate_default=True,
    )
    scrub_every: SecondsOrNever = Field(
        "7d",
        ge=60,
        le=31_536_000,
        description="How often each file is read back and compared with its digest, such as 7d;"
        " never for not at all.",
        validate_default=True,
    )
    scrub_rate: Size = Field(
        "50Mi",
        description="Bytes a second that are read back at most.",
        validate_default=True,
    )
    adopt: Literal["trust", "size", "full"] = Field(
        "size",
        description="What is believed of a root that was filled elsewhere, before it is ready:"
        " trust its names and sizes; size: also files that are no younger than their manifest, and"
        " read the others back; full: read everything back.",
    )
    node_name: NodeName = Field(
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
        description="Address and port for /livez, /readyz and /metrics, for the agent's page (/),"
        " /v1/node and /v1/events; empty for none.",
    )

    otlp_endpoint: Endpoint = Field(
        None,
        description="Collector to which traces are sent with OTLP over HTTP, such as"
        " http://otel-collector.observability:4318; none by default. Needs the extra `otel`, which"
        " the image has; headers and certificates come from OTEL_EXPORTER_OTLP_HEADERS and"
        " OTEL_EXPORTER_OTLP_CERTIFICATE.",
    )

    @field_validator("low_watermark")
    @classmethod
    def _is_not_above_the_high_one(cls, low: str, info: ValidationInfo) -> str:
        high = info.data.get("high_watermark")
        if high is not None and split_share(low)[1] > split_share(high)[1]:
            raise ValueError(f"{low} is more than the high watermark, {high}")
        return low

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
    def watermarks(self) -> tuple[float, float]:
        """(high, low), as parts of one."""
        return split_share(self.high_watermark)[1], split_share(self.low_watermark)[1]

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
