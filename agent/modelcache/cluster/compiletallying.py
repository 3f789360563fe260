"""How many nodes are how far with a compile cache: what `counting` counts for CompileCaches."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from modelcache.api import CompileCache
from modelcache.api.nodecache import CompileState
from modelcache.cluster.counting import Counts, Entry
from modelcache.cluster.reading import read_cache
from modelcache.planning.compilechoosing import spec_digest

_MESSAGE: Final = 300
_MOST_WITHDRAWN: Final = 16


class Bundle(NamedTuple):
    """A bundle as a node that holds it describes it."""

    digest: str
    key: str
    created: str
    size: int
    accelerator: str


class CompileSaid(NamedTuple):
    """What a NodeCache says of one compile cache, as far as it counts here.

    `withdrawn`: digest, key and why. Texts are empty for none.
    """

    state: str
    spec: str
    bundle: Bundle | None
    verified: bool
    reason: str
    message: str
    withdrawn: tuple[tuple[str, str, str], ...]


def compile_reports(reports: Iterable[Mapping[str, Any]]) -> dict[str, CompileSaid]:
    """The compile caches of a NodeCache's status, by name."""
    return {sys.intern(report["name"]): _said(report) for report in reports}


def _said(report: Mapping[str, Any]) -> CompileSaid:
    def text(field_: str) -> str:
        # The same few texts come from thousands of nodes.
        return sys.intern(str(report.get(field_) or ""))

    bundle = None
    # What is not at its place yet is nobody else's to fetch.
    if text("state") == CompileState.READY.value and not report.get("outgoing"):
        bundle = Bundle(
            digest=text("digest"),
            key=text("key"),
            created=text("createdAt"),
            size=report.get("bytes", 0),
            accelerator=text("accelerator"),
        )
    withdrawn = (report.get("withdrawn") or ())[:_MOST_WITHDRAWN]
    return CompileSaid(
        state=text("state"),
        spec=text("specDigest"),
        bundle=bundle,
        verified=bool(report.get("verified")),
        reason=text("reason"),
        message=str(report.get("message") or "")[:_MESSAGE],
        withdrawn=tuple(
            (each["digest"], each["key"], str(each.get("message") or "")[:_MESSAGE])
            for each in withdrawn
        ),
    )


@dataclass(slots=True)
class CompileTally:
    """One compile cache over all nodes that it selects.

    Attributes:
        desired: selected nodes that have a NodeCache.
        unheard: selected nodes that have none.
        ready, missing, failed: how many nodes are that far; the rest is pending.
        bundles: how many nodes hold each.
        verified: how many nodes loaded each, by digest.
        withdrawn: by digest, key and why, how many nodes failed to load it.
        failing: by node, what those say that have failed.
    """

    desired: int = 0
    unheard: set[str] = field(default_factory=set)
    ready: int = 0
    missing: int = 0
    failed: int = 0
    bundles: Counter[Bundle] = field(default_factory=Counter)
    verified: Counter[str] = field(default_factory=Counter)
    withdrawn: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    failing: dict[str, CompileSaid] = field(default_factory=dict)
    _digests: tuple[CompileCache, str] | None = None

    def add(self, node: str, report: CompileSaid | None, wanted: CompileCache) -> None:
        """Count a selected node that has a NodeCache."""
        if self._count(report, wanted, 1) and report and report.state == CompileState.FAILED.value:
            self.failing[node] = report

    def remove(self, node: str, report: CompileSaid | None, wanted: CompileCache) -> None:
        """Take back what `add` counted, with the same arguments."""
        self._count(report, wanted, -1)
        self.failing.pop(node, None)

    def _count(self, report: CompileSaid | None, wanted: CompileCache, step: int) -> bool:
        """Whether the report speaks of the object as it is."""
        self.desired += step
        if report is None or report.spec != self._digest(wanted):
            return False
        match report.state:
            case CompileState.READY.value:
                self.ready += step
            case CompileState.MISSING.value:
                self.missing += step
            case CompileState.FAILED.value:
                self.failed += step
        if report.bundle is not None:
            _change(self.bundles, report.bundle, step)
            if report.verified:
                _change(self.verified, report.bundle.digest, step)
        for each in report.withdrawn:
            _change(self.withdrawn, each, step)
        return True

    def _digest(self, wanted: CompileCache) -> str:
        """The object's digest: one is counted for thousands of nodes."""
        if self._digests is None or self._digests[0] is not wanted:
            self._digests = wanted, spec_digest(wanted)
        return self._digests[1]


def _change(counter: Counter[Any], what: object, step: int) -> None:
    counter[what] += step
    if not counter[what]:
        del counter[what]


CompileEntry = Entry[CompileCache, CompileTally]
"""A CompileCache with its tally."""


class CompileTallies(Counts[CompileCache, CompileSaid, CompileTally]):
    """The tally of each compile cache. For one thread."""

    def __init__(self) -> None:
        super().__init__(read_cache, CompileTally, "compile")
