"""The agent's settings: each an environment variable `MODELCACHE_…` and a flag of the same name.

The descriptions here are the help texts of the flags.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from modelcache.api.meta import SUBDOMAIN_PATTERN

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


Size = Annotated[int, BeforeValidator(_size), Field(gt=0)]
ShareOrSize = Annotated[str, BeforeValidator(_share_or_size)]
Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_comma_separated)]
Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)]


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

    catalog: Path = Field(
        Path("/etc/modelcache/catalog"),
        description="What this node is to hold: a YAML file, or a directory of them. Watched.",
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
    listen: str = Field(
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

    @field_validator("listen")
    @classmethod
    def _is_address(cls, listen: str) -> str:
        host, colon, port = listen.rpartition(":")
        written = colon and re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= 65535
        if listen and (not written or (":" in host and not host.startswith("["))):
            raise ValueError(f"{listen!r} is not written address:port, such as 0.0.0.0:8080")
        return listen

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
        if not self.listen:
            return None
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - as asked for
