"""Columns that tell what a row of a table is about."""

from __future__ import annotations

from typing import Final

from dashboards.boards import link_to_model, link_to_node
from dashboards.style import Key

CLUSTER_KEY: Final = Key("cluster", "Cluster")
NODE_KEY: Final = Key("node", "Node", link_to_node())
MODEL_KEY: Final = Key("model", "Model", link_to_model("fleet"))
COPY_KEYS: Final = (CLUSTER_KEY, NODE_KEY, MODEL_KEY)
