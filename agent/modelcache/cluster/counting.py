"""How many nodes are how far with each object of a kind, kept up to date by what changed.

5,000 nodes with 50 models are 250,000 reports, and while models are fetched a thousand nodes may
report anew each second: so of a node that is as it was no report is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, Generic, Protocol, TypeVar

from modelcache.cluster.client import Object
from modelcache.errors import UsageError
from modelcache.planning.placement import Placed, selects


class Wanted(Protocol):
    """An object that people write."""

    @property
    def spec(self) -> Placed:
        """Says where it belongs."""


Report_ = TypeVar("Report_")
ReportIn = TypeVar("ReportIn", contravariant=True)
WantedIn = TypeVar("WantedIn", contravariant=True)


class Tallying(Protocol[ReportIn, WantedIn]):
    """One object over all nodes that it selects."""

    @property
    def unheard(self) -> set[str]:
        """Selected nodes that have no NodeCache."""

    def add(self, node: str, report: ReportIn | None, wanted: WantedIn) -> None:
        """Count a selected node that has a NodeCache."""

    def remove(self, node: str, report: ReportIn | None, wanted: WantedIn) -> None:
        """Take back what `add` counted, with the same arguments."""


Wanted_ = TypeVar("Wanted_", bound=Wanted)
Tally_ = TypeVar("Tally_", bound=Tallying[Any, Any])


@dataclass(slots=True)
class Entry(Generic[Wanted_, Tally_]):
    """One object of the API server: `wanted` and `tally`, or the `fault` for which it has none."""

    thing: Object
    wanted: Wanted_ | None
    tally: Tally_
    fault: str = ""


class _Silence(Enum):
    """Why a node says nothing of an object."""

    NOT_SELECTED = auto()
    UNHEARD = auto()
    """It has no NodeCache."""


@dataclass(slots=True)
class _Node(Generic[Report_]):
    labels: Mapping[str, str]
    reports: Mapping[str, Report_] | None
    selected: frozenset[str]

    def says(self, name: str) -> Report_ | _Silence | None:
        """What its agent says of an object; None where it says nothing yet."""
        if name not in self.selected:
            return _Silence.NOT_SELECTED
        return _Silence.UNHEARD if self.reports is None else self.reports.get(name)


_NO_NODE: Final[_Node[Any]] = _Node({}, None, frozenset())


def _count(
    entry: Entry[Wanted_, Tally_], node: str, says: Report_ | _Silence | None, step: int
) -> None:
    if entry.wanted is None or says is _Silence.NOT_SELECTED:
        return
    if isinstance(says, _Silence):
        change = entry.tally.unheard.add if step > 0 else entry.tally.unheard.discard
        change(node)
    else:
        change_tally = entry.tally.add if step > 0 else entry.tally.remove
        change_tally(node, says, entry.wanted)


class Counts(Generic[Wanted_, Report_, Tally_]):
    """The tally of each object of one kind. For one thread."""

    def __init__(
        self, read: Callable[[Object], Wanted_], tally: Callable[[], Tally_], part: str
    ) -> None:
        """There are none yet.

        Args:
            read: an object as our class; raises UsageError where it can't be one.
            tally: makes an empty one.
            part: which part of a NodeCache, as a Mirror keeps it, has the reports of this kind.
        """
        self._read = read
        self._tally = tally
        self._part = part
        self._entries: dict[str, Entry[Wanted_, Tally_]] = {}
        self._nodes: dict[str, _Node[Report_]] = {}
        self._seen: tuple[object, object, object] = (None, None, None)
        self._shared: dict[frozenset[str], frozenset[str]] = {}

    @property
    def entries(self) -> Mapping[str, Entry[Wanted_, Tally_]]:
        """By the object's name."""
        return self._entries

    def update(
        self,
        things: Mapping[str, Object],
        nodes: Mapping[str, Object],
        caches: Mapping[str, Object],
    ) -> set[str]:
        """Count what changed since the last call; the names of the objects that are concerned.

        Args:
            things: the objects, as the API server has them.
            nodes: the Nodes, with `labels`.
            caches: the NodeCaches as `keep_reports` leaves them, by the node's name.
        """
        concerned: set[str] = set()
        if things is not self._seen[0]:
            concerned |= self._update_things(things)
        if nodes is not self._seen[1] or caches is not self._seen[2]:
            for name in [name for name in self._nodes if name not in nodes]:
                concerned |= self._place(name, None)
            for name, node in nodes.items():
                cache = caches.get(name)
                concerned |= self._observe(name, node["labels"], cache and cache[self._part])
        self._seen = (things, nodes, caches)
        return concerned & self._entries.keys()

    def reports(self, name: str) -> Iterator[Report_]:
        """What the nodes that an object selects say of it. Looks at every node."""
        for node in self._nodes.values():
            if name in node.selected and node.reports is not None and name in node.reports:
                yield node.reports[name]

    def _entry(self, thing: Object) -> Entry[Wanted_, Tally_]:
        try:
            return Entry(thing, self._read(thing), self._tally())
        except UsageError as error:
            return Entry(thing, None, self._tally(), str(error))

    def _update_things(self, things: Mapping[str, Object]) -> set[str]:
        self._shared.clear()
        changed = {name for name in self._entries if name not in things}
        for name in changed:
            self._count_anew(name, None)
        for name, thing in things.items():
            before = self._entries.get(name)
            if before is not None and before.thing is thing:
                continue
            changed.add(name)
            if before is not None and before.thing.get("spec") == thing.get("spec"):
                before.thing = thing
            else:
                self._count_anew(name, self._entry(thing))
        return changed

    def _count_anew(self, name: str, entry: Entry[Wanted_, Tally_] | None) -> None:
        """One object over all nodes."""
        if entry is None:
            del self._entries[name]
        else:
            self._entries[name] = entry
        wanted = entry.wanted if entry is not None else None
        for node_name, node in self._nodes.items():
            selected = wanted is not None and selects(wanted.spec, node_name, node.labels)
            if selected != (name in node.selected):
                node.selected = self._share(node.selected ^ {name})
            if selected and entry is not None:
                _count(entry, node_name, node.says(name), 1)

    def _observe(
        self, name: str, labels: Mapping[str, str], reports: Mapping[str, Report_] | None
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
                thing
                for thing, entry in self._entries.items()
                if entry.wanted is not None and selects(entry.wanted.spec, name, labels)
            )
        )

    def _place(self, name: str, node: _Node[Report_] | None) -> set[str]:
        """Replace one node; the objects whose tally that changes."""
        before = self._nodes.pop(name, _NO_NODE)
        after = node or _NO_NODE
        if node is not None:
            self._nodes[name] = node
        concerned = set()
        for thing in before.selected | after.selected:
            said, says = before.says(thing), after.says(thing)
            if said != says:
                concerned.add(thing)
                _count(self._entries[thing], name, said, -1)
                _count(self._entries[thing], name, says, 1)
        return concerned

    def _share(self, names: frozenset[str]) -> frozenset[str]:
        """The same set for all nodes that select the same."""
        return self._shared.setdefault(names, names)
