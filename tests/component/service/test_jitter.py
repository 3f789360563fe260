"""Nodes learn of a model in the same moment, and ask its origin one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelcache.api import ModelState
from modelcache.service import agent, working
from modelcache.settings import AgentSettings
from modelcache.transfer import Cancel
from tests.component.service.daemon import Daemon, cached_model
from tests.support.hub import HubServer

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: t}}]
"""


def test_an_origin_is_asked_after_a_random_share_of_the_time(
    tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    waits: list[tuple[float, int]] = []

    class Noting(Cancel):
        """Doesn't wait, and notes what the origin was asked until then."""

        def wait(self, seconds: float) -> None:
            waits.append((seconds, len(hub.requests)))

    monkeypatch.setattr(working, "Cancel", Noting)
    monkeypatch.setattr("random.random", lambda: 0.25)
    hub.add_repo("org/a", {"config.json": b"{}"})
    daemon = Daemon(tmp_path / "root", jitter=8.0)
    try:
        daemon.want(cached_model("hf://org/a"))
        daemon.settle()
        assert daemon.report().state is ModelState.READY
    finally:
        daemon.close()
    assert waits == [(2.0, 0)]


@pytest.mark.parametrize(
    ("settings", "jitter"),
    [
        ({"cluster": True, "start_jitter": "7s"}, 7.0),
        ({"cluster": True}, 2.0),
        ({"cluster": True, "nodes_at_once": 0, "start_jitter": "7s"}, 0.0),
        ({"start_jitter": "7s"}, 0.0),
    ],
)
def test_only_where_nodes_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], jitter: float
) -> None:
    given: list[float] = []

    class Noting(working.Crew):
        def __init__(self, **arguments: Any) -> None:
            given.append(arguments["jitter"])
            super().__init__(**arguments)

    monkeypatch.setattr(agent, "Crew", Noting)
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    agent.Agent(
        AgentSettings(
            root=tmp_path / "root", kubeconfig=tmp_path / "kubeconfig", listen="", **settings
        )
    )
    assert given == [jitter]
