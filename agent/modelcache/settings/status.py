"""The settings of `modelcache status` and `modelcache top`."""

from __future__ import annotations

import os
import socket

from pydantic import Field

from modelcache.settings.shared import ClusterSettings, StoreSettings
from modelcache.settings.values import Listen, NodeName, parse_listen


class StatusSettings(StoreSettings, ClusterSettings):
    """Whom to ask what nodes hold."""

    listen: Listen = Field(
        "127.0.0.1:8080",
        description="Address and port at which this node's agent answers; empty to ask none, but"
        " look at the root.",
    )
    node_name: NodeName = Field(
        default_factory=lambda: os.environ.get("NODE_NAME") or socket.gethostname().lower(),
        description="This node's name, where no agent tells it; by default NODE_NAME from the"
        " environment, or the host's.",
        validate_default=True,
    )

    @property
    def address(self) -> tuple[str, int] | None:
        """(host, port) of this node's agent."""
        return parse_listen(self.listen)
