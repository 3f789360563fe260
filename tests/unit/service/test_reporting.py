from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from modelcache.api import ModelReport, ModelState
from modelcache.catalog import Catalog, Problem
from modelcache.errors import Reason
from modelcache.service.reporting import (
    Reporter,
    disk_condition,
    read_node_report,
    ready_condition,
)
from modelcache.store import Store
from modelcache.store.sickness import WELL, DiskState, Health

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
READY = ModelReport(name="a", state=ModelState.READY, revision="c" * 40)
COMING = ModelReport(name="b", state=ModelState.DOWNLOADING)
FAILED = ModelReport(name="c", state=ModelState.FAILED, reason=Reason.NOT_FOUND, attempts=1)
BROKEN = Catalog.of(problems=[Problem("f.yaml", "is not YAML")])


class Said:
    """What the reporter is given."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.reports: tuple[ModelReport, ...] | None = (READY,)
        self.catalog: Catalog | None = Catalog.of()
        self.used = 0
        self.writes = 0

    def reporter(self) -> Reporter:
        return Reporter(
            store=self.store,
            node_name="n",
            reports=lambda: self.reports,
            catalog=lambda: self.catalog,
            used=lambda: self.used,
            max_labels=32,
        )

    @property
    def inode(self) -> int:
        return self.store.layout.node_report.stat().st_ino


@pytest.fixture
def said(tmp_path: Path) -> Said:
    return Said(tmp_path / "root")


def test_nothing_is_written_before_anything_is_known(said: Said) -> None:
    reporter = said.reporter()
    said.reports = None
    reporter.cycle()
    assert reporter.current() is None
    said.reports, said.catalog = (READY,), None
    reporter.cycle()
    assert not said.store.layout.node_report.exists()


def test_it_is_written_when_it_has_changed_and_only_then(said: Said) -> None:
    reporter = said.reporter()
    reporter.cycle()
    first = said.inode
    said.used = 5  # the disk alone is no news
    reporter.cycle()
    assert said.inode == first
    said.reports = (READY, COMING)
    reporter.cycle()
    second = said.inode
    assert second != first
    said.reports = (READY, COMING.model_copy(update={"bytes_done": 0}))  # equal, another object
    reporter.cycle()
    assert said.inode == second


def test_what_is_written_is_what_is_served(said: Said) -> None:
    reporter = said.reporter()
    reporter.cycle()
    served = reporter.current()
    assert served is not None
    written = json.loads(said.store.layout.node_report.read_text())
    document = served.to_document()
    for each in (written, document):
        for moving in ("available", "budget", "free", "inodesFree"):  # others write as well
            each["status"]["disk"].pop(moving)
    assert written == document
    assert written["status"]["labels"] == {
        "modelcache.dev/model.a": "Ready",
        "modelcache.dev/revision.a": "c" * 12,
    }


def test_a_disk_that_refuses_is_logged_once_and_tried_again(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    import structlog

    reporter = said.reporter()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with structlog.testing.capture_logs() as logs, monkeypatch.context() as broken:
        broken.setattr(reporter._durable, "write_file", refuse)
        reporter.cycle()
        reporter.cycle()
    assert [line["event"] for line in logs] == ["report.not_written"]
    reporter.cycle()
    assert said.store.layout.node_report.exists()


@pytest.mark.parametrize(
    ("reports", "catalog", "status", "reason"),
    [
        ((), Catalog.of(), "True", "AllReady"),
        ((READY,), Catalog.of(), "True", "AllReady"),
        ((READY, COMING), Catalog.of(), "False", "ModelsPending"),
        ((READY, COMING, FAILED), Catalog.of(), "False", "ModelsFailing"),
        ((COMING.model_copy(update={"wanted": False}),), Catalog.of(), "True", "AllReady"),
        ((READY,), BROKEN, "Unknown", "CatalogUnreadable"),
        ((COMING,), BROKEN, "False", "ModelsPending"),
    ],
)
def test_the_condition(
    reports: tuple[ModelReport, ...], catalog: Catalog, status: str, reason: str
) -> None:
    found = ready_condition(reports, catalog, None, NOW)
    assert (found.type, found.status, found.reason) == ("ModelCacheReady", status, reason)
    assert found.last_transition_time == NOW


def test_the_condition_says_which_models_and_why() -> None:
    found = ready_condition((READY, COMING, FAILED), Catalog.of(), None, NOW)
    assert found.message == "1 of 3 models are ready; b: Downloading; c: NotFound"


def test_the_time_is_that_of_the_last_change_of_the_status() -> None:
    first = ready_condition((COMING,), Catalog.of(), None, NOW)
    failing = ready_condition((FAILED,), Catalog.of(), first, LATER)
    assert (failing.reason, failing.last_transition_time) == ("ModelsFailing", NOW)
    ready = ready_condition((READY,), Catalog.of(), failing, LATER)
    assert ready.last_transition_time == LATER


def test_a_restart_keeps_the_time(said: Said) -> None:
    reporter = said.reporter()
    reporter.cycle()
    path = said.store.layout.node_report
    old = json.loads(path.read_text())
    old["status"]["conditions"][0]["lastTransitionTime"] = "2020-01-01T00:00:00Z"
    path.write_text(json.dumps(old))
    again = said.reporter().current()
    assert again is not None
    assert again.status is not None
    assert again.status.conditions[0].last_transition_time.year == 2020


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"kind": "Node"}'])
def test_a_report_that_cant_be_read_is_none(said: Said, content: bytes) -> None:
    said.store.layout.node_report.write_bytes(content)
    assert read_node_report(said.store.layout) is None
    assert said.reporter().current() is not None


def test_no_report_is_none(said: Said) -> None:
    assert read_node_report(said.store.layout) is None


def test_a_disk_that_is_down_has_no_model_ready_and_is_left_alone(said: Said) -> None:
    down = Health(DiskState.DOWN, "DiskReadOnly", "/cache: it was made read-only")
    health = WELL
    told: list[BaseException] = []
    reporter = Reporter(
        store=said.store,
        node_name="n",
        reports=lambda: (READY, COMING),
        catalog=lambda: said.catalog,
        used=lambda: 0,
        max_labels=32,
        disk=lambda: health,
        on_error=told.append,
    )
    reporter.cycle()
    before, inode = reporter.latest, said.inode
    assert before is not None
    assert before.status is not None
    assert [c.status for c in before.status.conditions] == ["False", "True"]
    assert before.status.labels
    health = down
    reporter.cycle()
    found = reporter.latest
    assert found is not None
    assert found.status is not None
    assert [model.state for model in found.status.models] == ["Failed", "Downloading"]
    assert found.status.models[0].reason == Reason.DISK_FAILED
    assert found.status.labels == {}
    ready, disk = found.status.conditions
    assert (ready.status, ready.reason) == ("False", "ModelsFailing")
    assert (disk.status, disk.reason, disk.message) == ("False", "DiskReadOnly", down.message)
    assert said.inode == inode, "nothing is written to it"
    assert told == []
    health = WELL
    reporter.cycle()
    assert reporter.latest is not None
    assert reporter.latest.status is not None
    assert reporter.latest.status.models == before.status.models
    assert reporter.latest.status.labels == before.status.labels


def test_the_disk_s_condition_keeps_its_time_while_it_is_the_same() -> None:
    first = disk_condition(WELL, None, NOW)
    assert disk_condition(WELL, first, LATER).last_transition_time == NOW
    failing = Health(DiskState.FAILING, "DiskFailing", "an I/O error")
    second = disk_condition(failing, first, LATER)
    assert (second.status, second.last_transition_time) == ("False", LATER)
    down = Health(DiskState.DOWN, "DiskFailed", "two")
    third = disk_condition(down, second, LATER + timedelta(hours=1))
    assert (third.reason, third.last_transition_time) == ("DiskFailed", LATER)
