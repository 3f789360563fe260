"""How many nodes are how far with each model, kept up to date by what changed.

5,000 nodes with 50 models are 250,000 reports, and while models are fetched a thousand nodes may
report anew each second: so of a node that is as it was no report is looked at.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from modelcache.api import CachedModel, ModelState
from modelcache.cluster.client import Object
from modelcache.cluster.reading import read_model
from modelcache.errors import UsageError
from modelcache.planning.placement import selects
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
    models = (node_cache.get("status") or {}).get("models") or ()
    return {
        "name": metadata["name"],
        "uid": metadata["uid"],
        "owned": bool(metadata.get("ownerReferences")),
        "reports": {sys.intern(model["name"]): _report(model) for model in models},
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


@dataclass(slots=True)
class Entry:
    """One object of the API server: `model` and `tally`, or the `fault` for which it has none."""

    thing: Object
    model: CachedModel | None = None
    fault: str = ""
    tally: Tally = field(default_factory=Tally)


class _Silence(Enum):
    """Why a node says nothing of a model."""

    NOT_SELECTED = auto()
    UNHEARD = auto()
    """It has no NodeCache."""


@dataclass(slots=True)
class _Node:
    labels: Mapping[str, str]
    reports: Mapping[str, Report] | None
    selected: frozenset[str]

    def says(self, model: str) -> Report | _Silence | None:
        """What its agent says of a model; None where it says nothing yet."""
        if model not in self.selected:
            return _Silence.NOT_SELECTED
        return _Silence.UNHEARD if self.reports is None else self.reports.get(model)


_NO_NODE: Final = _Node({}, None, frozenset())


def _count(entry: Entry, node: str, says: Report | _Silence | None, step: int) -> None:
    if entry.model is None or says is _Silence.NOT_SELECTED:
        return
    if isinstance(says, _Silence):
        change = entry.tally.unheard.add if step > 0 else entry.tally.unheard.discard
        change(node)
    else:
        change_tally = entry.tally.add if step > 0 else entry.tally.remove
        change_tally(node, says, entry.model)


def _entry(thing: Object) -> Entry:
    try:
        return Entry(thing, read_model(thing))
    except UsageError as error:
        return Entry(thing, fault=str(error))


class Tallies:
    """The tally of each model. For one thread."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._nodes: dict[str, _Node] = {}
        self._seen: tuple[object, object, object] = (None, None, None)
        self._shared: dict[frozenset[str], frozenset[str]] = {}

    @property
    def entries(self) -> Mapping[str, Entry]:
        """By the model's name."""
        return self._entries

    def update(
        self,
        models: Mapping[str, Object],
        nodes: Mapping[str, Object],
        caches: Mapping[str, Object],
    ) -> set[str]:
        """Count what changed since the last call; the names of the models that are concerned.

        Args:
            models: the CachedModels, as the API server has them.
            nodes: the Nodes, with `labels`.
            caches: the NodeCaches as `keep_reports` leaves them, by the node's name.
        """
        concerned: set[str] = set()
        if models is not self._seen[0]:
            concerned |= self._update_models(models)
        if nodes is not self._seen[1] or caches is not self._seen[2]:
            for name in [name for name in self._nodes if name not in nodes]:
                concerned |= self._place(name, None)
            for name, node in nodes.items():
                cache = caches.get(name)
                concerned |= self._observe(name, node["labels"], cache and cache["reports"])
        self._seen = (models, nodes, caches)
        return concerned & self._entries.keys()

    def reports(self, name: str) -> Iterator[Report]:
        """What the nodes that a model selects say of it. Looks at every node."""
        for node in self._nodes.values():
            if name in node.selected and node.reports is not None and name in node.reports:
                yield node.reports[name]

    def _update_models(self, models: Mapping[str, Object]) -> set[str]:
        self._shared.clear()
        changed = {name for name in self._entries if name not in models}
        for name in changed:
            self._count_anew(name, None)
        for name, thing in models.items():
            before = self._entries.get(name)
            if before is not None and before.thing is thing:
                continue
            changed.add(name)
            if before is not None and before.thing.get("spec") == thing.get("spec"):
                before.thing = thing
            else:
                self._count_anew(name, _entry(thing))
        return changed

    def _count_anew(self, name: str, entry: Entry | None) -> None:
        """One model over all nodes."""
        if entry is None:
            del self._entries[name]
        else:
            self._entries[name] = entry
        model = entry.model if entry is not None else None
        for node_name, node in self._nodes.items():
            selected = model is not None and selects(model.spec, node_name, node.labels)
            if selected != (name in node.selected):
                node.selected = self._share(node.selected ^ {name})
            if selected and entry is not None:
                _count(entry, node_name, node.says(name), 1)

    def _observe(
        self, name: str, labels: Mapping[str, str], reports: Mapping[str, Report] | None
    ) -> set[str]:
        before = self._nodes.get(name)
        if before is None or (before.labels is not labels and before.labels != labels):
            return self._place(name, _Node(labels, reports, self._selected(name, labels)))
        before.labels = labels
        if before.reports is reports or before.reports == reports:
            return set()
        return self._place(name, _Node(labels, reports, before.selected))

    def _selected(self, name: str, labels: Mapping[str, str]) -> frozenset[str]:
        return self._share(
            frozenset(
                model
                for model, entry in self._entries.items()
                if entry.model is not None and selects(entry.model.spec, name, labels)
            )
        )

    def _place(self, name: str, node: _Node | None) -> set[str]:
        """Replace one node; the models whose tally that changes."""
        before = self._nodes.pop(name, _NO_NODE)
        after = node or _NO_NODE
        if node is not None:
            self._nodes[name] = node
        concerned = set()
        for model in before.selected | after.selected:
            said, says = before.says(model), after.says(model)
            if said != says:
                concerned.add(model)
                _count(self._entries[model], name, said, -1)
                _count(self._entries[model], name, says, 1)
        return concerned

    def _share(self, names: frozenset[str]) -> frozenset[str]:
        """The same set for all nodes that select the same."""
        return self._shared.setdefault(names, names)
