"""What an agent says of its node before it ends because its disk can't be used.

The labels of the agent before it would go on to lead pods to models that are not to be had.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import structlog

from modelcache.api import Condition
from modelcache.cluster.client import NODES, Client
from modelcache.cluster.ownnode import OwnNode, keep_node
from modelcache.errors import ClusterError, ModelCacheError, UsageError
from modelcache.service.reporting import DISK_CONDITION, READY_CONDITION
from modelcache.settings import AgentSettings

log = structlog.get_logger(__name__)

_ANSWER_SECONDS: Final = 10.0
_MOST_MESSAGE: Final = 1024


def say_that_the_disk_is_down(settings: AgentSettings, error: ModelCacheError) -> None:
    """Take our labels off the node, and have its condition say why. What fails is logged."""
    try:
        client = Client.connect(settings.kubeconfig).within(_ANSWER_SECONDS)
    except UsageError as failure:
        log.warning("farewell.failed", message=str(failure))
        return
    try:
        found = client.list(NODES, fields=f"metadata.name={settings.node_name}").items
        if not found:
            return
        node = keep_node(READY_CONDITION, (DISK_CONDITION,))(found[0])
        own = OwnNode(client, settings.node_name, READY_CONDITION, lambda: node, (DISK_CONDITION,))
        own.label({})
        own.set_condition(
            Condition(
                type=DISK_CONDITION,
                status="False",
                reason="DiskUnusable",
                message=str(error)[:_MOST_MESSAGE],
                last_transition_time=datetime.now(UTC).replace(microsecond=0),
            )
        )
    except ClusterError as failure:
        log.warning("farewell.failed", message=str(failure))
    finally:
        client.close()
