"""What changed between one report of a node and the next, told as events."""

from __future__ import annotations

from modelcache.api import (
    API_VERSION,
    Condition,
    ModelReport,
    ModelState,
    NodeCache,
    NodeCacheStatus,
)
from modelcache.cluster.client import Object
from modelcache.cluster.compileevents import CompileEvents, Recording


class ReportChanges:
    """Tells of changes of state between one report and the next."""

    def __init__(
        self, recorder: Recording, before: NodeCache | None, disk_condition: str | None = None
    ) -> None:
        """`before`: what was reported before this process: of that, nothing tells again.
        `disk_condition`: the type of the condition that says how the disk is."""
        self._recorder = recorder
        self._compiled = CompileEvents(recorder, before)
        self._disk_condition = disk_condition
        status = before.status if before else None
        disk = of_type(status, disk_condition) if status else None
        self._disk_reason = disk.reason if disk else None
        self._before = {model.name: model for model in status.models} if status else {}
        self._unlabelled = status.unlabelled if status else ()

    def look(self, status: NodeCacheStatus, regarding: Object) -> None:
        """Record what has changed. `regarding`: the node, as a reference to it."""
        now = {model.name: model for model in status.models}
        for name in sorted({*self._before, *now}):
            self._tell(regarding, name, self._before.get(name), now.get(name))
        self._tell_of_labels(regarding, status.unlabelled)
        self._tell_of_the_disk(regarding, of_type(status, self._disk_condition))
        self._before, self._unlabelled = now, status.unlabelled
        self._compiled.look(status, regarding)

    def _tell(
        self, regarding: Object, name: str, old: ModelReport | None, new: ModelReport | None
    ) -> None:
        related = {"apiVersion": API_VERSION, "kind": "CachedModel", "name": name}
        was = old.revision if old and old.state is ModelState.READY else None
        if new is None:
            if old is not None:
                note = f"{name}: removed from this node"
                self._recorder.record(regarding, "Normal", "ModelRemoved", "Remove", note, related)
            return
        if new.state is ModelState.READY and new.wanted and new.revision != was:
            files = f"{new.files} file{'' if new.files == 1 else 's'}"
            note = f"{name}: revision {(new.revision or '')[:12]} is ready, {files}"
            self._recorder.record(regarding, "Normal", "ModelReady", "Fetch", note, related)
        if new.attempts and new.reason and (old is None or old.reason != new.reason):
            note = f"{name}: {new.message}"
            self._recorder.record(
                regarding, "Warning", f"Model{new.reason.value}", "Fetch", note, related
            )

    def _tell_of_the_disk(self, regarding: Object, disk: Condition | None) -> None:
        if disk is None:
            return
        is_well = disk.status == "True"
        was, self._disk_reason = self._disk_reason, disk.reason
        if disk.reason == was or (was is None and is_well):
            return
        kind = "Normal" if is_well else "Warning"
        self._recorder.record(regarding, kind, disk.reason, "Probe", disk.message)

    def _tell_of_labels(self, regarding: Object, unlabelled: tuple[str, ...]) -> None:
        if unlabelled and unlabelled != self._unlabelled:
            note = f"{len(unlabelled)} ready models have no label: the node carries as many as it"
            note += f" may ({', '.join(unlabelled[:5])}{', …' if len(unlabelled) > 5 else ''})"
            self._recorder.record(regarding, "Warning", "TooManyModels", "Label", note)


def of_type(status: NodeCacheStatus, kind: str | None) -> Condition | None:
    """A report's condition of a type; None: it has none."""
    return next((each for each in status.conditions if each.type == kind), None)
