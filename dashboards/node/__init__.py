"""One node: its disk, transfers, evictions, read-ahead, page cache, and its agent."""

from __future__ import annotations

from dashboards.boards import dashboard
from dashboards.node import agent, answers, machine, models


def node() -> str:
    """The JSON."""
    return dashboard(
        "node",
        "One node: what it holds and fetches, its disk, evictions, page cache, read-ahead, and how"
        " its agent is.",
        [
            answers.answers(),
            models.models(),
            models.transfers(),
            machine.disk(),
            machine.page_cache(),
            machine.read_ahead(),
            machine.scrubbing(),
            agent.compile_caches(),
            agent.agent(),
        ],
        since="now-6h",
        one_node=True,
    )
