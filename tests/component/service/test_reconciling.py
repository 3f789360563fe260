"""The reconciler against a real hub, in time that tests turn forward."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import structlog

from modelcache.api import ModelState
from modelcache.errors import Reason
from modelcache.store import Store
from tests.component.service.daemon import Daemon, cached_model
from tests.support.hub import HubServer, Stall, Status


def defect(*_: object) -> None:
    raise KeyError("defect")


FILES = {"config.json": b"{}", "weights.safetensors": b"x" * 1000}


def current(daemon: Daemon, name: str = "m") -> str:
    return os.readlink(daemon.store.layout.current(name))


def test_polling_follows_the_branch_in_its_time(daemon: Daemon, hub: HubServer) -> None:
    first = hub.add_repo("org/a", FILES)
    daemon.want(cached_model("hf://org/a", refresh={"policy": "Poll", "interval": "1m"}))
    daemon.settle()
    assert current(daemon) == first
    second = hub.commit("org/a", {"config.json": b'{"new": 1}'})
    hub.clear_requests()
    daemon.settle()
    assert hub.requests == [], "before its time"
    daemon.later(62.0)
    daemon.settle()
    assert current(daemon) == second
    assert daemon.report().revision == second


def test_a_branch_that_is_moved_back_is_followed(daemon: Daemon, hub: HubServer) -> None:
    first = hub.add_repo("org/a", FILES)
    second = hub.commit("org/a", {"config.json": b'{"new": 1}'})
    hub.tag("org/a", "moving", first)
    daemon.want(cached_model("hf://org/a@moving", refresh={"policy": "Poll", "interval": "1m"}))
    daemon.settle()
    for moved in (second, first, second):
        hub.tag("org/a", "moving", moved)
        daemon.later(61.0)
        daemon.settle()
        daemon.cycle()  # what was here already is shown in the next round
        assert current(daemon) == moved
        assert daemon.report().revision == moved
    given = hub.bytes_sent("*weights*")
    assert given == 1000, "fetched twice"


def test_a_refresh_that_fails_leaves_the_model_ready_and_says_why(
    daemon: Daemon, hub: HubServer
) -> None:
    hub.add_repo("org/a", FILES)
    daemon.want(cached_model("hf://org/a", refresh={"policy": "Poll", "interval": "1m"}))
    daemon.settle()
    hub.remove_repo("org/a")
    daemon.later(62.0)
    daemon.settle()
    report = daemon.report()
    assert (report.state, report.reason) == (ModelState.READY, Reason.NOT_FOUND)
    assert report.retry_at is not None


def test_failures_are_tried_again_in_their_time_and_at_once_when_the_object_changes(
    daemon: Daemon, hub: HubServer
) -> None:
    daemon.want(cached_model("hf://org/late"))
    daemon.settle()
    first = daemon.report()
    assert (first.state, first.reason, first.attempts) == (
        ModelState.FAILED,
        Reason.NOT_FOUND,
        1,
    )
    daemon.cycle()
    assert daemon.report().attempts == 1
    assert first.retry_at is not None
    daemon.now = first.retry_at.timestamp() + 0.1
    daemon.cycle()
    assert daemon.news.wait(10)
    daemon.cycle()
    assert daemon.report().attempts == 2
    hub.add_repo("org/late", FILES)
    daemon.want(cached_model("hf://org/late", priority=1))
    daemon.settle()
    assert daemon.report().state is ModelState.READY


def test_a_source_that_changes_is_ready_when_the_new_one_is_there(
    daemon: Daemon, hub: HubServer
) -> None:
    hub.add_repo("org/a", FILES)
    other = hub.add_repo("org/b", FILES)
    daemon.want(cached_model("hf://org/a"))
    daemon.settle()
    daemon.want(cached_model("hf://org/b"))
    daemon.cycle()
    assert daemon.report().state is not ModelState.READY
    daemon.settle()
    assert (daemon.report().state, daemon.report().revision) == (ModelState.READY, other)
    daemon.want(cached_model("hf://org/a"))
    hub.clear_requests()
    daemon.settle()
    assert daemon.report().state is ModelState.READY
    assert hub.requests == [], "what is here is shown without asking"


def test_a_wider_selection_is_fetched_though_the_revision_is_the_same(
    daemon: Daemon, hub: HubServer
) -> None:
    hub.add_repo("org/a", FILES)
    daemon.want(cached_model("hf://org/a", include=["*.json"]))
    daemon.settle()
    assert daemon.report().files == 1
    daemon.want(cached_model("hf://org/a"))
    daemon.settle()
    assert daemon.report().files == 2
    assert (daemon.store.layout.current("m") / "weights.safetensors").is_file()


def test_a_resolution_that_hangs_is_left_behind_when_the_source_changes(
    daemon: Daemon, hub: HubServer
) -> None:
    hub.add_repo("org/hangs", FILES)
    hub.add_repo("org/good", FILES)
    hub.fault_api(Stall(times=None), "*hangs*")
    daemon.want(cached_model("hf://org/hangs"))
    daemon.cycle()
    assert hub.wait_until(lambda requests: len(requests) > 0)
    daemon.want(cached_model("hf://org/good"))
    daemon.settle()
    assert daemon.report().state is ModelState.READY


def test_what_nobody_wants_any_more_is_stopped(daemon: Daemon, hub: HubServer) -> None:
    hub.add_repo("org/a", FILES)
    hub.fault("*weights*", Stall(after=10, times=None))
    daemon.want(cached_model("hf://org/a"))
    while not any("weights" in request.path for request in hub.requests):
        daemon.cycle()
        daemon.news.wait(0.1)
    daemon.want()
    daemon.settle(rounds=4)
    assert daemon.telling.reports() == ()
    assert daemon.crew.running() == {}


def test_a_snapshot_that_lost_a_file_is_withdrawn_and_mended(
    daemon: Daemon, hub: HubServer
) -> None:
    hub.add_repo("org/a", FILES)
    daemon.want(cached_model("hf://org/a"))
    daemon.settle()
    (manifest,) = daemon.store.manifests()
    weights = next(f for f in manifest.files if f.path == "weights.safetensors")
    daemon.store.blobs.path(weights.sha256).unlink()
    daemon.inventory.look_again(daemon.store.manifests()[0])
    hub.clear_requests()
    daemon.cycle()
    assert daemon.report().state is not ModelState.READY
    daemon.settle()
    assert daemon.report().state is ModelState.READY
    assert hub.bytes_sent() == 1000, "only what was lost"


def test_a_look_that_was_wrong_is_no_reason_to_plan_without_end(
    daemon: Daemon, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/a", FILES)
    daemon.want(cached_model("hf://org/a"))
    daemon.settle()
    real, lies = Store.look, ["damaged"]
    monkeypatch.setattr(Store, "look", lambda s, m: [lies.pop()] if lies else real(s, m))
    daemon.inventory.look_again(daemon.store.manifests()[0])
    daemon.cycle()
    # While the damage was believed, the origin was asked again.
    daemon.await_threads()
    daemon.cycle()
    assert not daemon.news.is_set()
    assert daemon.report().state is ModelState.READY


def test_what_is_committed_and_yet_not_there_waits_before_the_next_try(
    daemon: Daemon, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/a", FILES)
    # No manifest that is written can be read again.
    monkeypatch.setattr(Store, "manifests", lambda _: [])
    daemon.want(cached_model("hf://org/a"))
    daemon.settle()
    report = daemon.report()
    assert (report.state, report.reason, report.attempts) == (
        ModelState.FAILED,
        Reason.INTERNAL,
        1,
    )


def test_a_disk_that_refuses_one_model_refuses_no_other(
    daemon: Daemon, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/a", FILES)
    daemon.want(cached_model("hf://org/a", "bad"))
    daemon.settle()
    daemon.store.layout.current("bad").unlink()
    real = Store.show

    def refuse(store: Store, manifest: object) -> None:
        if manifest.model == "bad":  # type: ignore[attr-defined]
            raise OSError(5, "Input/output error")
        real(store, manifest)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "show", refuse)
    daemon.want(cached_model("hf://org/a", "bad"), cached_model("hf://org/a", "good"))
    with structlog.testing.capture_logs() as logs:
        daemon.settle()
    assert daemon.report("good").state is ModelState.READY
    bad = daemon.report("bad")
    assert (bad.state, bad.message) == (ModelState.FAILED, "Input/output error")
    assert any(line["event"] == "model.failed" for line in logs)


def test_a_defect_is_one_models_failure(
    daemon: Daemon, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/a", FILES)
    monkeypatch.setattr("modelcache.origins.hf.HuggingFaceOrigin.locate", defect)
    local = daemon.store.layout.root.parent / "local"
    local.mkdir()
    (local / "config.json").write_bytes(b"{}")
    daemon.want(cached_model("hf://org/a", "bad"), cached_model(f"file://{local}", "good"))
    with structlog.testing.capture_logs():
        daemon.settle()
    assert daemon.report("good").state is ModelState.READY
    assert daemon.report("bad").reason is Reason.INTERNAL


def test_nothing_begins_while_the_agent_ends(daemon: Daemon, hub: HubServer) -> None:
    hub.add_repo("org/a", FILES)
    daemon.want(cached_model("hf://org/a"))
    daemon.cancel.set()
    daemon.cycle()
    assert daemon.crew.running() == {}
    assert daemon.report().state is ModelState.PENDING


def test_a_token_that_is_refused(daemon: Daemon, hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("org/gated", FILES, gated=True, token="hf_x")
    hub.add_repo("org/slow", FILES)
    hub.fault_api(Status(429, retry_after=1, times=None), "*slow*")
    daemon.want(cached_model("hf://org/gated", "gated"), cached_model("hf://org/slow", "slow"))
    daemon.settle()
    assert daemon.report("gated").reason is Reason.AUTH_FAILED
    assert daemon.report("slow").reason is Reason.RATE_LIMITED
