"""What several programs have: where the cache is, how hard to pull, the API server, the log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from modelcache.settings.values import (
    CapacityText,
    Hosts,
    Mirrors,
    Namespace,
    Rates,
    ShareOrSize,
    Size,
    split_share,
)


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
    capacity: CapacityText = Field(
        "100%",
        description="What the cache takes at most of its file system, however much is free: a share"
        " (50%) or a size (2Ti).",
    )
    secrets_dir: Path | None = Field(
        None,
        description="Directory of Secrets, one folder each with a file for each key, as mounted in"
        " a pod. `secretName` is looked up there.",
    )

    @property
    def keep_free_parts(self) -> tuple[int, float]:
        """(bytes, ratio): one of them is zero."""
        return split_share(self.keep_free)

    @property
    def capacity_parts(self) -> tuple[int, float] | None:
        """(bytes, ratio): one of them is zero; None: all that there is."""
        return None if self.capacity == "100%" else split_share(self.capacity)


class FetchSettings(StoreSettings):
    """How hard to pull. What every command that fetches needs."""

    connections: int = Field(
        8, ge=1, le=64, description="Connections over which bytes come, for all models together."
    )
    bandwidth: Size | None = Field(
        None,
        description="Limit in bytes a second for all together, such as 200Mi; none by default.",
    )
    origin_bandwidth: Rates = Field(
        (),
        description="Limits for single kinds of origins besides, such as hf=200Mi,s3=1Gi. What"
        " comes from a mirror doesn't count.",
    )
    host_connections: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Connections to one host at most; by default as many as there are. A host that"
        " asks for fewer requests (429, 503) is left alone for a while, and then gets half.",
    )
    io_priority: Literal["normal", "low", "idle"] = Field(
        "low",
        description="Priority on the disk of what fetches: normal, low (gives way to others) or"
        " idle (may stand still beside a busy pod). Heeded by the I/O schedulers BFQ and"
        " mq-deadline.",
    )
    mirrors: Mirrors = Field(
        (),
        description="Who is asked for bytes before the origin, such as"
        " hf=http://dragonfly.local:4001,s3=https://cache.example/s3; several for one origin in"
        " their order. Plain http only for files that have a digest.",
    )
    ca_bundle: Path | None = Field(
        None,
        description="PEM file with certificates of CAs that origins, mirrors and proxies may be"
        " signed by, besides the usual ones.",
    )
    private_redirects: Hosts = Field(
        (),
        description="Networks and hosts inside, such as 10.0.0.0/8,cdn.example.com, that an origin"
        " of the internet may redirect to, as a public registry does to a bucket with a private"
        " endpoint; none by default. What the catalog or a setting names is reached in any case.",
    )


class ClusterSettings(BaseSettings):
    """Where the API server is, and we in its cluster."""

    model_config = SettingsConfigDict(env_prefix="MODELCACHE_", extra="ignore", frozen=True)

    kubeconfig: Path | None = Field(
        None,
        description="How to reach the API server; by default as a pod does.",
    )
    namespace: Namespace = Field(
        default_factory=lambda: os.environ.get("POD_NAMESPACE") or "modelcache-system",
        description="Where the agents run, and their Leases are; by default POD_NAMESPACE from the"
        " environment.",
        validate_default=True,
    )


class LogSettings(BaseSettings):
    """How a daemon logs."""

    model_config = SettingsConfigDict(env_prefix="MODELCACHE_", extra="ignore", frozen=True)

    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="json, console, or auto: console on a terminal."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important lines to write."
    )
