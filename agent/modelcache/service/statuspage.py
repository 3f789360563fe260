"""The page at the agent's `/`: what it is told of, and when it is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from modelcache import __version__
from modelcache.api import API_VERSION, NodeCache
from modelcache.cluster.changes import ReportChanges
from modelcache.errors import UsageError
from modelcache.host.backing import Backing, Host
from modelcache.planning.describing import Progress
from modelcache.service.endpoints import Answer, Route, document
from modelcache.service.evictionnews import NodeEvents
from modelcache.service.fetchrates import FetchRates
from modelcache.service.happenings import Happenings
from modelcache.service.page import Facts, ReadAhead, headers, page
from modelcache.service.reporting import DISK_CONDITION


class StatusPage:
    """Remembers what the page tells of beside the report. Safe for threads."""

    def __init__(
        self,
        root: Path,
        before: NodeCache | None,
        *,
        report: Callable[[], tuple[NodeCache | None, float]],
        fetching: Callable[[], Mapping[str, Progress]],
        hung: Callable[[], Sequence[str]],
        beside: Callable[[], NodeEvents | None] = lambda: None,
        watermarks: tuple[float, float] | None = None,
        host: Host | None = None,
    ) -> None:
        """Look at what reads ahead for the root.

        Args:
            root: the cache's root.
            before: what was reported before this process: of that, nothing is told again.
            report: gives the last report, and since when it is so, of `time.monotonic`.
            fetching: gives the fetches under way.
            hung: gives the names of tasks that show no sign of life.
            beside: who is told of what has to do with models as well, if there is anybody.
            watermarks: above which part of what the cache may take what nothing needs goes, and
                down to which.
            host: this machine.
        """
        self.happenings = Happenings(beside)
        self._changes = ReportChanges(self.happenings, before, DISK_CONDITION)
        self._report = report
        self._fetching = fetching
        self._hung = hung
        self._watermarks = watermarks
        self._host = host or Host()
        self._backing = _backing(self._host, root)
        self._rates = FetchRates()
        self._since = datetime.now(UTC)
        self.happenings.note("AgentStarted", "", f"modelcache {__version__}")

    def look(self) -> None:
        """There is a report that is new. Called from one thread."""
        self._rates.look(self._fetching())
        report, _ = self._report()
        if report is not None and report.status is not None:
            self._changes.look(report.status, {})

    @property
    def routes(self) -> dict[str, Route]:
        """What is answered."""
        return {"/": self._page, "/v1/events": self._events}

    def facts(self) -> Facts:
        """What the page tells now."""
        node, at = self._report()
        return Facts(
            now=datetime.now(UTC),
            since=self._since,
            version=__version__,
            node=node,
            age=max(0.0, time.monotonic() - at) if node else 0.0,
            rates=self._rates.look(self._fetching()),
            happenings=self.happenings.latest(),
            read_ahead=self._read_ahead(),
            watermarks=self._watermarks,
            hung=self._hung(),
        )

    def _page(self) -> Answer:
        found = self.facts()
        # As /v1/node does: there is nothing to tell yet.
        status = 503 if found.status is None else 200
        return status, "text/html; charset=utf-8", page(found).encode(), headers()

    def _events(self) -> Answer:
        items = [each.to_document() for each in self.happenings.latest()]
        return document({"apiVersion": API_VERSION, "kind": "NodeEvents", "items": items})

    def _read_ahead(self) -> ReadAhead | None:
        if self._backing is None:
            return None
        with suppress(OSError, ValueError):  # the device is gone
            kib = self._host.read_ahead_kb(self._backing.bdi)
            return ReadAhead(self._backing.name, kib * 1024)
        return None


def _backing(host: Host, root: Path) -> Backing | None:
    # What holds a cache is not changed for another below a running agent.
    with suppress(UsageError, OSError):  # NoReadAhead, or /proc or /sys can't be read
        return host.backing_of_path(root.resolve())
    return None
