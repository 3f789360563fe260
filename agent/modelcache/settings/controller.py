"""The settings of `modelcache controller`."""

from __future__ import annotations

import os
import re
import socket

from pydantic import Field, field_validator

from modelcache.settings.shared import ClusterSettings, LogSettings
from modelcache.settings.taints import STARTUP_TAINT
from modelcache.settings.values import LABEL_KEY_PATTERN, Listen, Seconds, parse_listen


class ControllerSettings(ClusterSettings, LogSettings):
    """The controller of a cluster."""

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
        STARTUP_TAINT,
        description="Key of the taint that comes off a node once its models are there; empty: no"
        " taint is touched.",
    )
    startup_deadline: Seconds = Field(
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
