"""What a scrape of an agent with many models costs, and that it looks at nothing."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from modelcache.metrics.contract import Program
from modelcache.service.agent import Agent
from modelcache.settings import AgentSettings
from modelcache.store import Store
from tests.support.agent import write_catalog
from tests.support.cluster.waiting import eventually
from tests.support.expositions import check
from tests.support.store import put

MODELS = 200


class Looks(threading.local):
    """What a thread asks the system for about files, while it is watched."""

    watched = False

    def __init__(self) -> None:
        self.seen: list[str] = []


LOOKS = Looks()
_AUDITED = ("open", "os.listdir", "os.scandir", "os.statvfs", "subprocess.Popen", "socket.connect")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if LOOKS.watched and event in _AUDITED:
        LOOKS.seen.append(f"{event} {arguments[:1]}")


@pytest.fixture(scope="module", autouse=True)
def audited() -> None:
    sys.addaudithook(_audit)  # for good: there is no way to take it away


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What this thread looks at from now on."""
    for name in ("stat", "lstat", "statvfs", "readlink", "access"):  # these are not audited
        monkeypatch.setattr(os, name, _noted(name, getattr(os, name)))
    LOOKS.seen.clear()
    return LOOKS.seen


def _noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*arguments: Any, **more: Any) -> Any:
        if LOOKS.watched:
            LOOKS.seen.append(name)
        return call(*arguments, **more)

    return noted


@contextmanager
def watched() -> Iterator[None]:
    LOOKS.watched = True
    try:
        yield
    finally:
        LOOKS.watched = False


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    store = Store(tmp_path / "root")
    for number in range(MODELS):
        put(store, f"m-{number:03}", {"w": b"the same for all: what is told of each is not"})
    catalog = write_catalog(tmp_path / "catalog.yaml")
    settings = AgentSettings(root=store.layout.root, catalog=catalog, listen="")
    running = Agent(settings)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        eventually(
            lambda: running._metrics.exposition().count(b"modelcache_model_uses_total{"),
            MODELS.__eq__,
            timeout=60,
            what="all of them",
        )
        yield running
    finally:
        running.stop()
        thread.join(20)


def test_a_scrape_looks_at_nothing_and_takes_no_time(agent: Agent, looks: list[str]) -> None:
    took = []
    for _ in range(7):
        began = time.thread_time()
        with watched():
            exposition = agent._metrics.exposition()
        took.append(time.thread_time() - began)
    assert looks == []
    assert min(took) < 0.05, "seconds of the processor"
    found = check(exposition.decode(), Program.AGENT)
    states = [key for key in found if key[0] == "modelcache_model_state"]
    assert len(states) == 7 * MODELS
    assert len(found) < 30 * MODELS
    with watched():  # so that this test could fail
        agent._reporter.current()
        (Path(agent._store.layout.root) / "node.json").read_bytes()
    assert {"statvfs"} <= {*looks}
    assert any(look.startswith("open") for look in looks)
