from __future__ import annotations

import pytest

from modelcache.api import ModelState
from modelcache.errors import NotFound, Reason
from modelcache.planning.describing import Paths, Progress, describe, with_progress
from modelcache.planning.planner import Fetch, Resolve, Running
from tests.unit.planning.samples import NEW, OLD, found, held, manifest, model, source_of

M = model()
PATHS = Paths("/root/models/m/current", "/root/hub/m")
HALF = Progress(NEW, done=50, total=100, files=3, started_at=1000.0)
FETCHING = Running(Fetch, source_of(M))
FAILED = found(M).failed(NotFound("gone"), 1000.0, lambda *_, **__: 60.0)
READY = [(held(M), manifest())]


@pytest.mark.parametrize(
    ("trial", "running", "progress", "state"),
    [
        (None, None, None, ModelState.PENDING),
        (None, Running(Resolve, source_of(M)), None, ModelState.RESOLVING),
        (found(M), None, None, ModelState.PENDING),
        (found(M), FETCHING, None, ModelState.DOWNLOADING),
        (found(M), FETCHING, HALF, ModelState.DOWNLOADING),
        (found(M), FETCHING, Progress(NEW, committing=True), ModelState.VERIFYING),
        (FAILED, None, None, ModelState.FAILED),
        (FAILED, Running(Resolve, source_of(M)), None, ModelState.FAILED),
        (FAILED, FETCHING, HALF, ModelState.DOWNLOADING),
    ],
)
def test_the_state_of_what_is_not_there(
    trial: object, running: object, progress: object, state: ModelState
) -> None:
    report = describe("m", M, (), trial, running, progress, PATHS)  # type: ignore[arg-type]
    assert report.state is state
    assert report.path is None


def test_what_is_ready() -> None:
    report = describe("m", M, READY, None, None, None, PATHS)
    assert report.state is ModelState.READY
    assert (report.revision, report.bytes_done, report.bytes_total, report.files) == (OLD, 5, 5, 1)
    assert (report.path, report.hub_path) == (PATHS.plain, PATHS.hub)
    assert report.finished_at == READY[0][1].created_at


def test_what_is_ready_stays_ready_while_a_newer_revision_comes_or_fails() -> None:
    coming = describe("m", M, READY, found(M, NEW), FETCHING, HALF, PATHS)
    assert coming.state is ModelState.READY
    assert (coming.revision, coming.next_revision) == (OLD, NEW)
    failing = describe("m", M, READY, FAILED, None, None, PATHS)
    assert failing.state is ModelState.READY
    assert (failing.reason, failing.attempts) == (Reason.NOT_FOUND, 1)


def test_what_was_fetched_for_another_source_is_not_ready() -> None:
    for other in (model(uri="hf://org/other"), model(include=("*.json",))):
        report = describe("m", other, READY, None, None, None, PATHS)
        assert report.state is ModelState.PENDING
        assert (report.revision, report.path) == (None, None)


def test_what_is_not_whole_or_not_shown_is_not_ready() -> None:
    for snapshot in (held(M, whole=False), held(M, shown=False)):
        report = describe("m", M, [(snapshot, manifest())], None, None, None, PATHS)
        assert report.state is ModelState.PENDING


def test_a_failure_says_why_and_when_it_is_tried_again() -> None:
    report = describe("m", M, (), FAILED, None, None, PATHS)
    assert (report.reason, report.message, report.attempts) == (Reason.NOT_FOUND, "gone", 1)
    assert report.retry_at is not None
    assert report.retry_at.timestamp() == 1060.0
    trying = describe("m", M, (), FAILED, FETCHING, None, PATHS)
    assert (trying.attempts, trying.retry_at) == (1, None)


def test_failures_of_another_source_are_not_told() -> None:
    report = describe("m", model(uri="hf://org/other"), (), FAILED, None, None, PATHS)
    assert (report.state, report.reason, report.attempts) == (ModelState.PENDING, None, 0)


def test_an_origin_that_hangs_is_told_of_before_the_try_has_failed() -> None:
    stuck = Running(Resolve, source_of(M), stuck=True)
    report = describe("m", M, (), None, stuck, None, PATHS)
    assert (report.state, report.reason) == (ModelState.RESOLVING, Reason.ORIGIN_UNAVAILABLE)
    trouble = Progress(NEW, 1, 2, reason=Reason.RATE_LIMITED, message="slow down")
    report = describe("m", M, (), found(M), FETCHING, trouble, PATHS)
    assert (report.reason, report.message) == (Reason.RATE_LIMITED, "slow down")
    assert report.attempts == 0


def test_what_nobody_wants() -> None:
    report = describe("m", None, READY, None, None, None, PATHS)
    assert (report.state, report.wanted) == (ModelState.READY, False)
    assert report.source == "hf://org/name"
    gone = describe("m", None, [(held(M, whole=False), manifest())], None, None, None, PATHS)
    assert (gone.state, gone.wanted) == (ModelState.EVICTED, False)


def test_progress_of_this_moment_changes_what_speaks_of_it() -> None:
    told = describe("m", M, (), found(M, NEW), FETCHING, None, PATHS)
    later = with_progress(told, HALF)
    assert (later.bytes_done, later.bytes_total, later.revision) == (50, 100, NEW)
    assert later.started_at is not None
    done = with_progress(told, Progress(NEW, 120, 100, committing=True))
    assert (done.state, done.bytes_done) == (ModelState.VERIFYING, 100)
    ready = describe("m", M, READY, None, None, None, PATHS)
    assert with_progress(ready, HALF) == ready
