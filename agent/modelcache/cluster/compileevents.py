"""Events of compile caches: what changed between one report of a node and the next."""

from __future__ import annotations

from typing import Protocol

from modelcache.api import API_VERSION, NodeCache, NodeCacheStatus
from modelcache.api.nodecache import CompileReport, CompileState
from modelcache.cluster.client import Object
from modelcache.compilecache.engines.blaming import MissReason


class Recording(Protocol):
    """What this needs of an events' Recorder."""

    def record(
        self,
        regarding: Object,
        type_: str,
        reason: str,
        action: str,
        note: str,
        related: Object | None = None,
    ) -> None:
        """Note an event; it is sent later."""


class CompileEvents:
    """Tells of them on the Node, with the CompileCache as what it has to do with."""

    def __init__(self, recorder: Recording, before: NodeCache | None) -> None:
        """`before`: what was reported before this process; no event tells of it again."""
        self._recorder = recorder
        known = before.status.compile_caches if before and before.status else ()
        self._before = {report.name: report for report in known}

    def look(self, status: NodeCacheStatus, regarding: Object) -> None:
        """Record what has changed. `regarding`: the node, as a reference to it."""
        now = {report.name: report for report in status.compile_caches}
        for name in sorted({*self._before, *now}):
            self._tell(regarding, name, self._before.get(name), now.get(name))
        self._before = now

    def _tell(
        self, regarding: Object, name: str, old: CompileReport | None, new: CompileReport | None
    ) -> None:
        related = {"apiVersion": API_VERSION, "kind": "CompileCache", "name": name}

        def record(type_: str, reason: str, action: str, note: str) -> None:
            self._recorder.record(
                regarding, type_, f"CompileCache{reason}", action, f"{name}: {note}", related
            )

        if new is None:
            # Its bundle, where there is one, is deleted later, or wanted again before.
            if old is not None and old.state is CompileState.READY:
                record("Normal", "Removed", "Remove", "nothing asks for it on this node any more")
            return
        was = old.digest if old and old.state is CompileState.READY else None
        if new.state is CompileState.READY and new.digest != was:
            digest = (new.digest or "").removeprefix("sha256:")
            record("Normal", "Ready", "Fetch", f"bundle {digest[:12]} is ready")
        if new.reason and (old is None or old.reason != new.reason):
            record("Warning", new.reason.value, "Fetch", new.message or "")
        known = {each.digest for each in old.withdrawn} if old else set()
        for each in new.withdrawn:
            if each.digest not in known:
                digest = each.digest.removeprefix("sha256:")
                record("Warning", "Withdrawn", "Seed", f"bundle {digest[:12]}: {each.message}")
        miss = new.last_miss
        if miss is not None and (old is None or old.last_miss != miss):
            # The first start of all compiles: nothing is wrong then.
            expected = miss.reason == MissReason.NOTHING_SEEDED
            note = miss.message or miss.reason or miss.result
            record("Normal" if expected else "Warning", "Missed", "Start", note)
