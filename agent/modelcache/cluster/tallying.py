"""How many nodes are how far with a model: what `counting` counts for CachedModels."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from modelcache.api import CachedModel, ModelState
from modelcache.cluster.client import Object
from modelcache.cluster.compiletallying import compile_reports
from modelcache.cluster.counting import Counts, Entry
from modelcache.cluster.reading import read_model
from modelcache.planning.sources import source_digest

_MESSAGE: Final = 300
_MOVING: Final = (ModelState.DOWNLOADING.value, ModelState.VERIFYING.value)


class Report(NamedTuple):
    """What a NodeCache says of one model, as far as it counts here. Texts are empty for none."""

    state: str
    wanted: bool
    source: str
    digest: str
    revision: str
    done: int
    total: int
    attempts: int
    reason: str
    message: str
    finished: str


def keep_reports(node_cache: Object) -> Object:
    """What of a NodeCache a Mirror keeps: a third of a kilobyte for each model."""
    metadata = node_cache["metadata"]
    status = node_cache.get("status") or {}
    models = status.get("models") or ()
    return {
        "name": metadata["name"],
        "uid": metadata["uid"],
        "owned": bool(metadata.get("ownerReferences")),
        "reports": {sys.intern(model["name"]): _report(model) for model in models},
        "compile": compile_reports(status.get("compileCaches") or ()),
    }


def _report(model: Mapping[str, Any]) -> Report:
    def text(field_: str) -> str:
        # The same few texts come from thousands of nodes.
        return sys.intern(str(model.get(field_) or ""))

    return Report(
        state=text("state"),
        wanted=model.get("wanted", True),
        source=text("source"),
        digest=text("sourceDigest"),
        revision=text("revision"),
        done=model.get("bytesDone", 0),
        total=model.get("bytesTotal", 0),
        attempts=model.get("attempts", 0),
        reason=text("reason"),
        message=str(model.get("message") or "")[:_MESSAGE],
        finished=str(model.get("finishedAt") or ""),
    )


class Standing(Enum):
    """How far a selected node is."""

    PENDING = auto()
    DOWNLOADING = auto()
    FAILED = auto()
    READY = auto()


def standing(report: Report | None, model: CachedModel) -> Standing:
    """How far a node is with a model, by what it reported.

    A report that speaks of another source than the object has now says nothing yet. Who tries again
    after a failure counts as failed until bytes come.
    """
    if report is None or not report.wanted or not _speaks_of(report, model):
        return Standing.PENDING
    if report.state == ModelState.READY.value:
        return Standing.READY
    if report.state in _MOVING:
        return Standing.DOWNLOADING
    return Standing.FAILED if report.attempts else Standing.PENDING


def _speaks_of(report: Report, model: CachedModel) -> bool:
    source = model.spec.source
    if report.digest:
        return report.digest == source_digest(source)
    return report.source == source.shown


@dataclass(slots=True)
class Tally:
    """One model over all nodes that it selects.

    Attributes:
        desired: selected nodes that have a NodeCache.
        unheard: selected nodes that have none.
        ready: how many nodes are ready with each (revision, bytes).
        fetching: how many download or have failed with each; no revision is an empty one.
        downloading, failed: how many nodes are that far; the rest is pending.
        done, total: bytes of those that download.
        failing: by node, the reports of those that are not ready and whose last try failed.
        behind: by node, the reports of those that are ready and can't look for a newer revision.
    """

    desired: int = 0
    unheard: set[str] = field(default_factory=set)
    ready: Counter[tuple[str, int]] = field(default_factory=Counter)
    fetching: Counter[tuple[str, int]] = field(default_factory=Counter)
    downloading: int = 0
    failed: int = 0
    done: int = 0
    total: int = 0
    failing: dict[str, Report] = field(default_factory=dict)
    behind: dict[str, Report] = field(default_factory=dict)

    def add(self, node: str, report: Report | None, model: CachedModel) -> None:
        """Count a selected node that has a NodeCache."""
        how_far = self._count(report, model, 1)
        if report is not None and report.attempts:
            if how_far is Standing.READY:
                self.behind[node] = report
            elif how_far is not Standing.PENDING:
                self.failing[node] = report

    def remove(self, node: str, report: Report | None, model: CachedModel) -> None:
        """Take back what `add` counted, with the same arguments."""
        self._count(report, model, -1)
        self.behind.pop(node, None)
        self.failing.pop(node, None)

    def _count(self, report: Report | None, model: CachedModel, step: int) -> Standing:
        self.desired += step
        how_far = standing(report, model)
        if report is None or how_far is Standing.PENDING:
            return how_far
        counter = self.ready if how_far is Standing.READY else self.fetching
        held = (report.revision, report.total)
        counter[held] += step
        if not counter[held]:
            del counter[held]
        if how_far is Standing.DOWNLOADING:
            self.downloading += step
            self.done += step * report.done
            self.total += step * report.total
        elif how_far is Standing.FAILED:
            self.failed += step
        return how_far


ModelEntry = Entry[CachedModel, Tally]
"""A CachedModel with its tally."""


class Tallies(Counts[CachedModel, Report, Tally]):
    """The tally of each model. For one thread."""

    def __init__(self) -> None:
        super().__init__(read_model, Tally, "reports")
