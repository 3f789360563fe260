"""Whatever an agent remembers of a model is told when the model is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from modelcache.service.agent import Agent
from modelcache.service.fetchhistory import FetchHistory
from modelcache.service.tracing import Traces
from modelcache.settings import AgentSettings
from tests.support.agent import write_catalog
from tests.support.cluster.waiting import eventually
from tests.support.collector import Collector

Forget = Callable[[Any, Collection[str]], None]


def _noted(into: set[str], forget: Forget) -> Forget:
    def noted(self: object, models: Collection[str]) -> None:
        into.update(models)
        forget(self, models)

    return noted


def test_who_remembers_models_is_told_which_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, set[str]] = {"FetchHistory": set(), "Traces": set()}
    for kind in (FetchHistory, Traces):
        monkeypatch.setattr(kind, "forget", _noted(told[kind.__name__], kind.forget))
    origin = tmp_path / "origin"
    origin.mkdir()
    (origin / "w").write_bytes(b"weights")
    here = {"name": "here", "uri": f"file://{origin}"}
    goes = [{"name": f"goes-{n}", "uri": f"file://{origin}/none"} for n in range(3)]
    catalog = write_catalog(tmp_path / "catalog.yaml", here, *goes)
    with Collector() as collector:
        agent = Agent(
            AgentSettings(
                root=tmp_path / "root",
                catalog=catalog,
                listen="",
                file_roots=(origin,),
                otlp_endpoint=collector.url,
            )
        )
        thread = threading.Thread(target=agent.run)
        thread.start()
        try:
            failed = {each["name"] for each in goes}
            eventually(lambda: {m.name for m in agent.missing if m.attempts}, failed.__eq__)
            assert told == {"FetchHistory": set(), "Traces": set()}
            write_catalog(catalog, goes[0])  # the one that is here stays there, unwanted
            gone = failed - {"goes-0"}
            eventually(lambda: told, {"FetchHistory": gone, "Traces": gone}.__eq__)
        finally:
            agent.stop()
            thread.join(20)
    assert told == {"FetchHistory": gone, "Traces": gone}
