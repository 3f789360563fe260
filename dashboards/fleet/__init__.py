"""All nodes and models: the first row answers, those below explain."""

from __future__ import annotations

from dashboards.boards import dashboard
from dashboards.fleet import alerts, answers, controlplane, models, nodes


def fleet() -> str:
    """The JSON."""
    return dashboard(
        "fleet",
        "Which nodes have which models, what is being fetched, why one is not ready, whether the"
        " disks are full, what the cache saved, and whether the agents are well.",
        [
            answers.answers(),
            alerts.alerts(),
            models.copies_by_node(),
            models.fetching(),
            models.not_ready(),
            models.time_to_ready(),
            models.saved(),
            nodes.disks(),
            nodes.compile_caches(),
            nodes.read_ahead(),
            nodes.programs(),
            controlplane.control_plane(),
        ],
        since="now-24h",
    )
