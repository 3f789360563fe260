"""Views of what the API server has."""

from __future__ import annotations

from typing import Any

from modelcache.cli.nodes.fleet import _Reading
from modelcache.cli.nodes.views import AgentState
from tests.unit.cli.nodes.samples import ready, status


def cache(name: str, *, broken: bool = False) -> dict[str, Any]:
    document = status(ready("m")).to_document()
    if broken:
        document["models"][0]["state"] = "Sparkling"
    return {"metadata": {"name": name}, "status": document}


def pod(node: str | None, ready: str) -> dict[str, Any]:
    conditions = [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": ready}]
    return {"spec": {"nodeName": node}, "status": {"conditions": conditions}}


def test_nodes_are_those_with_a_report_and_those_with_an_agent() -> None:
    caches = {"n1": cache("n1"), "n2": cache("n2")}
    # One agent ends while another starts, as in a rolling update; one has no node yet.
    pods = [pod("n1", "False"), pod("n1", "True"), pod("n3", "True"), pod(None, "False")]
    views = _Reading().views(caches, pods)
    assert [(view.name, view.agent, view.status is not None) for view in views] == [
        ("n1", AgentState.UP, True),
        ("n2", AgentState.DOWN, True),
        ("n3", AgentState.UP, False),
    ]
    assert views[0].note == ""
    assert "not ready" in views[1].note
    assert "nothing yet" in views[2].note


def test_where_pods_are_not_known_nothing_is_said_of_agents() -> None:
    (view,) = _Reading().views({"n1": cache("n1")}, None)
    assert view.agent is AgentState.UNKNOWN
    assert view.note == ""


def test_what_cannot_be_read_is_told_and_takes_nobody_along() -> None:
    caches = {"n1": cache("n1", broken=True), "n2": cache("n2")}
    first, second = _Reading().views(caches, None)
    assert first.status is None
    assert first.note.startswith("can't be read: status.models.0.state:")
    assert second.status is not None


def test_what_stays_the_same_is_read_once() -> None:
    reading = _Reading()
    caches = {"n1": cache("n1"), "n2": cache("n2")}
    before = reading.views(caches, None)
    caches["n2"] = cache("n2")
    after = reading.views(caches, None)
    assert after[0] is before[0]
    assert after[1] is not before[1]
    assert reading.views({"n2": caches["n2"]}, None) == (after[1],)
    assert list(reading._read) == ["n2"]
