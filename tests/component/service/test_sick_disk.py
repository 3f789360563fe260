"""A disk that fails under an agent: the node says so, nothing is asked of anybody, and it heals."""

from __future__ import annotations

import json
import re
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelcache.store import Store
from tests.component.service.daemon import Daemon, cached_model
from tests.support.agent import AgentProcess, write_catalog
from tests.support.cluster.waiting import eventually
from tests.support.hub import GeneratedContent, HubServer
from tests.support.sickdisk import SickDisk, sick_disk
from tests.support.store import check

MIB = 1 << 20
SIZE = 24 * MIB

pytestmark = pytest.mark.root


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SickDisk]:
    with sick_disk(tmp_path / "disk", 160 * MIB) as disk:
        yield disk


@pytest.fixture
def running(disk: SickDisk, tmp_path: Path, hub: HubServer) -> Iterator[AgentProcess]:
    """An agent that has model a, whose catalog was then given model b beside it."""
    hub.add_repo("org/a", {"w.safetensors": GeneratedContent(SIZE, seed=1)})
    hub.add_repo("org/b", {"w.safetensors": GeneratedContent(SIZE, seed=2)})
    catalog = write_catalog(tmp_path / "catalog.yaml", {"name": "a", "uri": "hf://org/a"})
    with AgentProcess(disk.place / "root", catalog, env={"HF_ENDPOINT": hub.url}) as running:
        running.wait_ready("a")
        hub.clear_requests()
        yield running
        assert running.terminate() == 0


def want_both(tmp_path: Path) -> None:
    write_catalog(
        tmp_path / "catalog.yaml",
        {"name": "a", "uri": "hf://org/a"},
        {"name": "b", "uri": "hf://org/b"},
    )


def readiness(running: AgentProcess) -> str:
    try:
        return running.get("/readyz")
    except urllib.error.HTTPError as error:
        return str(error.read().decode())


def conditions(running: AgentProcess) -> dict[str, Any]:
    return {each["type"]: each for each in running.node()["status"]["conditions"]}


def test_a_file_system_that_is_read_only(
    running: AgentProcess, disk: SickDisk, hub: HubServer, tmp_path: Path
) -> None:
    assert conditions(running)["ModelCacheDiskHealthy"]["status"] == "True"
    disk.make_read_only()
    assert "can't be written" in readiness(running)
    running.wait_for_event("disk.state", state="down", reason="DiskReadOnly")
    assert "made read-only" in readiness(running)
    assert running.get("/livez") == "ok\n"
    status = running.node()["status"]
    assert status.get("labels", {}) == {}
    (model,) = status["models"]
    assert (model["state"], model["reason"]) == ("Failed", "DiskFailed")
    found = conditions(running)
    assert found["ModelCacheDiskHealthy"]["status"] == "False"
    assert found["ModelCacheDiskHealthy"]["reason"] == "DiskReadOnly"
    assert found["ModelCacheReady"]["status"] == "False"
    assert 'modelcache_disk_state{state="down"} 1.0' in running.get("/metrics")
    eventually(lambda: "Disk, DiskReadOnly" in running.get("/"), timeout=10, what="the page")
    want_both(tmp_path)
    running.wait_for_event("catalog.read", objects=2)
    time.sleep(2)  # what doesn't happen can't be awaited
    assert hub.requests == []
    disk.make_writable()
    running.wait_ready("a")
    running.wait_ready("b")
    assert conditions(running)["ModelCacheDiskHealthy"]["reason"] == "DiskFailing"
    assert set(running.node()["status"]["labels"]) >= {"modelcache.dev/model.a"}
    assert sum(request.bytes_sent for request in hub.requests) < SIZE + MIB, "a was never gone"


def test_a_file_system_that_shut_itself_down(
    running: AgentProcess, disk: SickDisk, hub: HubServer, tmp_path: Path
) -> None:
    disk.fail()
    readiness(running)
    running.wait_for_event("disk.state", state="down", reason="DiskFailed")
    assert running.node()["status"].get("labels", {}) == {}
    said = len(running.events)
    want_both(tmp_path)
    running.wait_for_event("catalog.read", objects=2)
    time.sleep(2)  # what doesn't happen can't be awaited
    assert hub.requests == []
    assert len(running.events) - said < 10, "it logs no line for each look"
    assert running.get("/livez") == "ok\n"
    disk.mount_again()
    running.wait_ready("a")
    running.wait_ready("b")
    assert sum(request.bytes_sent for request in hub.requests) < SIZE + MIB, "a was never gone"
    check(Store(disk.place / "root"))


def as_of(running: AgentProcess) -> str:
    """The moment that its page is of; asked for while the disk hangs, it has to come at once."""
    found = re.search(r'As of <time datetime="([^"]*)"', running.get("/"))
    assert found is not None
    return found[1]


def test_the_page_is_there_while_the_disk_hangs_and_says_how_old_it_is(
    running: AgentProcess, disk: SickDisk, tmp_path: Path
) -> None:
    began = eventually(lambda: as_of(running), what="the first report")
    with disk.hanging():
        want_both(tmp_path)  # which is to be written to node.json
        before = eventually(lambda: stands_still(running), timeout=30, what="an old page")
    assert before >= began
    running.wait_ready("b")
    eventually(lambda: as_of(running) > before, timeout=30, what="a new page")


def stands_still(running: AgentProcess) -> str:
    before = as_of(running)
    time.sleep(3)  # what doesn't happen can't be awaited
    assert as_of(running) == before
    return before


def test_nothing_is_withdrawn_from_a_disk_that_fails(
    disk: SickDisk, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that can't be had is no look that found something missing."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.add_repo("org/a", {"w.safetensors": b"weights"})
    daemon = Daemon(disk.place / "root")
    try:
        daemon.want(cached_model("hf://org/a"))
        daemon.settle()
        (manifest,) = daemon.store.manifests()
        daemon.inventory.look_again(manifest)
        disk.fail()
        daemon.cycle()
        daemon.cycle()
        assert daemon.disk.is_down
        assert daemon.report().state == "Ready"
        disk.mount_again()
        assert [m.snapshot for m in daemon.store.manifests()] == [manifest.snapshot]
        assert json.loads((disk.place / "root" / "layout.json").read_text())["version"] == 1
        check(daemon.store)
    finally:
        daemon.close()
