"""An agent to which hundreds of models come and go again keeps nothing of them in memory."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

import modelcache
from modelcache.service.agent import Agent
from modelcache.settings import AgentSettings
from tests.support.agent import write_catalog
from tests.support.cluster.waiting import eventually
from tests.support.collector import Collector
from tests.support.hub import HubServer, Status

PACKAGE = f"{Path(modelcache.__file__).parent}/*"
GENERATIONS, EACH = 12, 90
WARM = 4
"""Generations after which what has a bound has reached it: fifty happenings, and the like."""


class Churning:
    """An agent whose catalog has other models each time: a third of them isn't there, a third is
    found and has no room, and a third is refused when it is fetched."""

    def __init__(self, tmp_path: Path, collector: Collector) -> None:
        origin = tmp_path / "origin"
        (origin / "large").mkdir(parents=True)
        with (origin / "large" / "w").open("wb") as file:
            file.truncate(1 << 40)
        self.origin = origin
        self.catalog = write_catalog(tmp_path / "catalog.yaml")
        self.agent = Agent(
            AgentSettings(
                root=tmp_path / "root",
                catalog=self.catalog,
                listen="",
                file_roots=(origin,),
                otlp_endpoint=collector.url,
            )
        )
        self._thread = threading.Thread(target=self.agent.run)
        self._thread.start()

    def generation(self, number: int) -> None:
        """Other models than before, and wait until each was tried."""
        sources = (f"file://{self.origin}/none", f"file://{self.origin}/large", "hf://org/a")
        names = [f"m-{number}-{each}" for each in range(EACH)]
        models = [{"name": n, "uri": sources[i % 3]} for i, n in enumerate(names)]
        write_catalog(self.catalog, *models)
        eventually(
            lambda: {report.name for report in self.agent.missing if report.attempts},
            {*names}.__eq__,
            timeout=60,
            what="all were tried",
            pause=0.02,
        )

    def kept(self) -> int:
        """Bytes that our code holds, or had others hold."""
        gc.collect()
        ours = tracemalloc.Filter(True, PACKAGE, all_frames=True)
        traces = tracemalloc.take_snapshot().filter_traces([ours]).traces
        return sum(trace.size for trace in traces)

    def close(self) -> None:
        self.agent.stop()
        self._thread.join(20)


@pytest.fixture
def churning(tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Churning]:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.add_repo("org/a", {"w": b"weights"})
    hub.fault("*", Status(403, times=None))
    with Collector() as collector:
        running = Churning(tmp_path, collector)
        yield running
        running.close()


def test_models_that_came_and_went_are_forgotten(churning: Churning) -> None:
    tracemalloc.start(12)
    try:
        for number in range(WARM):
            churning.generation(number)
        before = churning.kept()
        for number in range(WARM, GENERATIONS):
            churning.generation(number)
        grown = churning.kept() - before
    finally:
        tracemalloc.stop()
    names = (GENERATIONS - WARM) * EACH
    assert grown < 30 * names, "bytes"
