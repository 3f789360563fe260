"""Every file that is generated here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dashboards.coldstart import cold_start
from dashboards.fleet import fleet
from dashboards.node import node
from dashboards.rulefiles import manifests

ROOT = Path(__file__).parents[1]
"""The repository."""


def files() -> Mapping[str, str]:
    """The text of each file, by its path from the repository's root."""
    return {
        "dashboards/grafana/cold-start.json": cold_start(),
        "dashboards/grafana/fleet.json": fleet(),
        "dashboards/grafana/node.json": node(),
        **manifests(),
    }
