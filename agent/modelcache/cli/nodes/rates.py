"""How fast each fetch goes, and how long it still takes: from successive reports.

A report may be old when it is seen, and the next a while away: so only what has grown says
something, and silence is told from slowness by time. An agent knows better of its own fetches
(`service.fetchrates`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from modelcache.api import ModelReport, ModelState
from modelcache.cli.nodes.views import NodeView, Teller

_MOVING: Final = (ModelState.DOWNLOADING, ModelState.VERIFYING)
_WINDOW_SECONDS: Final = 15.0
"""Over so long a rate is taken: long enough to be read, short enough to be true."""
_SILENT_SECONDS: Final = 12.0
"""A report comes at most each five seconds from the API server (--report-seconds): what has not
grown for so long stands still."""


@dataclass(slots=True)
class _Course:
    """One fetch: (seconds, bytes) at each moment at which it had more bytes than before.

    `timed`: whether the first of them is of its moment. A report that was published may be old when
    it is first seen; that it has changed is seen at once.
    """

    what: tuple[str | None, ModelState, int]
    timed: bool
    points: deque[tuple[float, int]] = field(default_factory=deque)


class Rates:
    """Bytes a second of each model on each node, by a monotonic clock."""

    def __init__(self) -> None:
        self._courses: dict[tuple[str, str], _Course] = {}
        self._now = 0.0

    def note(self, nodes: Iterable[NodeView], now: float) -> None:
        """Take in what is reported at a moment, in seconds."""
        self._now = now
        seen: dict[tuple[str, str], _Course] = {}
        for node in nodes:
            for report in node.models:
                if report.state in _MOVING and report.bytes_total:
                    key = (node.name, report.name)
                    course = self._courses.get(key)
                    live = node.teller is Teller.AGENT
                    seen[key] = _follow(course, report, now, live=live)
        self._courses = seen

    def of(self, node: str, model: str) -> float | None:
        """Bytes a second; None where it is not moving, or was seen only once."""
        course = self._courses.get((node, model))
        if course is None:
            return None
        first_at, first = course.points[0]
        last_at, last = course.points[-1]
        if self._now - last_at > _SILENT_SECONDS:
            return 0.0
        return (last - first) / (last_at - first_at) if last_at > first_at else None

    def seconds_left(self, node: str, report: ModelReport) -> float | None:
        """How long a fetch still takes at that rate; None where that can't be told."""
        rate = self.of(node, report.name)
        return (report.bytes_total - report.bytes_done) / rate if rate else None


def _follow(course: _Course | None, report: ModelReport, now: float, *, live: bool) -> _Course:
    # Another state: while archives are unpacked, or content read back, other bytes are counted.
    what = (report.revision, report.state, report.bytes_total)
    done = report.bytes_done
    if course is None or course.what != what or done < course.points[-1][1]:
        return _Course(what, live, deque([(now, done)]))
    if done > course.points[-1][1]:
        if not course.timed:
            return _Course(what, True, deque([(now, done)]))
        course.points.append((now, done))
    while len(course.points) > 2 and now - course.points[0][0] > _WINDOW_SECONDS:
        course.points.popleft()
    return course
