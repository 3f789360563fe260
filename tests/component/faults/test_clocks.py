"""Clocks that jump: nothing waits, or stays, for as long as the clock was wrong."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from modelcache.api import ModelState
from modelcache.host.booting import Jumps
from modelcache.service.unwanted import Keeping
from modelcache.store import Store
from tests.component.service.daemon import Daemon, cached_model
from tests.component.service.test_making_room import Around
from tests.support.hub import HubServer, Status
from tests.support.store import described, put, put_blob

HOUR, DAY, YEAR = 3600.0, 86_400.0, 365 * 86_400.0
BACK = pytest.mark.parametrize("back", [HOUR, DAY, YEAR])
FILES = {"config.json": b"{}", "weights.safetensors": b"x" * 1000}


@BACK
def test_what_failed_is_tried_again(daemon: Daemon, hub: HubServer, back: float) -> None:
    hub.add_repo("org/a", FILES)
    hub.fault("org/a/*weights*", Status(404))
    daemon.want(cached_model("hf://org/a"))
    daemon.settle()
    assert daemon.report().state is ModelState.FAILED
    hub.clear_faults()
    daemon.now -= back
    daemon.settle()
    assert daemon.report().state is ModelState.READY


@BACK
def test_a_branch_is_polled(daemon: Daemon, hub: HubServer, back: float) -> None:
    hub.add_repo("org/a", FILES)
    daemon.want(cached_model("hf://org/a", refresh={"policy": "Poll", "interval": "1m"}))
    daemon.settle()
    second = hub.commit("org/a", {"config.json": b'{"new": 1}'})
    daemon.now -= back
    daemon.settle()
    assert daemon.report().revision == second
    hub.clear_requests()
    daemon.settle()
    assert hub.requests == [], "asked all the time"


@BACK
def test_what_nothing_wants_goes(
    tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, back: float
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.add_repo("org/a", FILES)
    daemon = Daemon(tmp_path / "root", Around(), Keeping(600.0, also_when_empty=True))
    try:
        daemon.want(cached_model("hf://org/a"))
        daemon.settle()
        daemon.want()
        daemon.cycle()
        daemon.now -= back
        daemon.cycle()
        assert daemon.store.manifests(), "its time is not over"
        daemon.now += 601.0
        daemon.cycle()
        assert daemon.store.manifests() == []
    finally:
        daemon.close()


@pytest.mark.parametrize("back", [DAY, YEAR])
def test_what_crashes_left_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: float
) -> None:
    """It was made by a clock that was ahead: it is as old as it was ahead."""
    store = Store(tmp_path / "root")
    put(store, "m", {"w": b"weights"})
    put_blob(store, b"orphan")
    store.record("n", "s", described("w", b"orphan"))
    partial = store.ingest.claim("sha256-partial", 1000)
    partial.close()
    before = set(store.layout.root.rglob("*"))
    store.sweep(older_than=DAY - 60)
    assert set(store.layout.root.rglob("*")) == before, "it is young"
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - back)
    store.sweep(older_than=DAY - 60)
    left = {str(p.relative_to(store.layout.root)) for p in store.layout.root.rglob("*")}
    assert not any("partial/" in name or "receipts/" in name for name in left), left
    assert len(list((store.layout.root / "blobs").rglob("*"))) < len(before)
    assert [store.verify(manifest) for manifest in store.manifests()] == [[]]


def test_a_jump_ahead_takes_nothing_from_a_fetch_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "root")
    partial = store.ingest.claim("sha256-partial", 1000)
    partial.allocate()
    partial.write(memoryview(b"x" * 1000), 0)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + YEAR)
    with store.space.reserve(1000, files=1, what="m"), store.staging() as staging:
        Store(tmp_path / "root").sweep()
        assert Store(tmp_path / "root").space.measure().reserved >= 1000
        assert store.ingest.allocated("sha256-partial") >= 1000
        assert any((store.layout.staging).iterdir()), staging
    partial.close()


@pytest.mark.parametrize("ahead", [HOUR, DAY, YEAR])
def test_what_the_clock_is_set_ahead_is_no_time_that_passed(
    tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """The machine's other clock tells: a grace lasts as long as it should."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.add_repo("org/a", FILES)
    passed = 0.0
    keeping = Keeping(600.0, also_when_empty=True)
    daemon = Daemon(tmp_path / "root", Around(), keeping, jumps=Jumps(lambda: passed))
    try:
        daemon.want(cached_model("hf://org/a"))
        daemon.settle()
        daemon.want()
        daemon.cycle()
        daemon.now += ahead
        daemon.cycle()
        daemon.now, passed = daemon.now + 590.0, 590.0
        daemon.cycle()
        assert daemon.store.current("m") is not None
        daemon.now, passed = daemon.now + 20.0, 610.0
        daemon.cycle()
        assert daemon.store.current("m") is None
    finally:
        daemon.close()
