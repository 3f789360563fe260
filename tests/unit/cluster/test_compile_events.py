"""Events of compile caches: each change once, and only what is so."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from modelcache.api import NodeCacheStatus
from modelcache.api.nodecache import CompileReport, CompileState, DiskReport, StartReport
from modelcache.cluster.client import Object
from modelcache.cluster.compileevents import CompileEvents
from modelcache.errors import Reason

NODE: Object = {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "uid"}
ONE = f"sha256:{'1' * 64}"
READY = CompileReport(name="c", state=CompileState.READY, digest=ONE)
MISSING = CompileReport(name="c", state=CompileState.MISSING)


class Told:
    """What was told, one report after the other."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, str]] = []
        self._events = CompileEvents(self, None)

    def record(
        self,
        _regarding: Object,
        type_: str,
        reason: str,
        _action: str,
        note: str,
        _related: Object | None = None,
    ) -> None:
        self.said.append((type_, reason, note))

    def __call__(self, *reports: CompileReport) -> list[tuple[str, str, str]]:
        self.said.clear()
        self._events.look(status(*reports), NODE)
        return list(self.said)


def status(*reports: CompileReport) -> NodeCacheStatus:
    disk = DiskReport(capacity=1, available=1, used=0, reserved=0)
    return NodeCacheStatus(agent_version="0", root="/r", disk=disk, compile_caches=reports)


def with_miss(**more: Any) -> CompileReport:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return READY.model_copy(update={"last_miss": StartReport(result="Miss", at=at, **more)})


def test_a_bundle_that_is_ready_is_told_once() -> None:
    told = Told()
    assert told(READY) == [("Normal", "CompileCacheReady", f"c: bundle {'1' * 12} is ready")]
    assert told(READY) == []
    failing = READY.model_copy(update={"reason": Reason.AUTH_FAILED, "message": "no"})
    assert told(failing) == [("Warning", "CompileCacheAuthFailed", "c: no")]
    assert told(READY) == []


def test_what_was_never_here_was_not_removed() -> None:
    told = Told()
    assert told(MISSING) == []
    assert told() == []


def test_of_what_was_here_it_is_told_that_nothing_asks_for_it_any_more() -> None:
    """Its bundle is deleted some time later, or never."""
    told = Told()
    told(READY)
    note = "c: nothing asks for it on this node any more"
    assert told() == [("Normal", "CompileCacheRemoved", note)]
    assert told() == []


def test_the_first_start_of_all_is_no_warning() -> None:
    told = Told()
    told(READY)
    ((kind, reason, _),) = told(with_miss(reason="NothingSeeded"))
    assert (kind, reason) == ("Normal", "CompileCacheMissed")
    ((kind, _, note),) = told(with_miss(reason="OtherKey", message="another image"))
    assert (kind, note) == ("Warning", "c: another image")
