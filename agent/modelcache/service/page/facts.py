"""What a page is made of, and how it is worded for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from modelcache.api import Condition, ModelReport, NodeCache, NodeCacheStatus
from modelcache.api.nodecache import CompileReport
from modelcache.planning.wording import duration, next_try, tries
from modelcache.service.happenings import Happening
from modelcache.service.page.markup import Html, element, joined


@dataclass(frozen=True, slots=True)
class ReadAhead:
    """What reads ahead for the root's file system."""

    device: str
    """The disk's name, or the mount's source."""
    bytes: int


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a page tells, at one moment."""

    now: datetime
    """When it is made."""
    since: datetime
    """When the agent started."""
    version: str
    """The agent's."""
    node: NodeCache | None = None
    """The last report; None: there was none yet."""
    age: float = 0.0
    """Seconds since that report was made."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Bytes a second of models that are being fetched."""
    happenings: Sequence[Happening] = ()
    """The last one first."""
    read_ahead: ReadAhead | None = None
    """None: it can't be told."""
    watermarks: tuple[float, float] | None = None
    """Above the first share of what the cache may take, what nothing needs goes down to the
    second."""
    hung: Sequence[str] = ()
    """Tasks of the agent that show no sign of life."""

    @property
    def status(self) -> NodeCacheStatus | None:
        """What the last report says."""
        return self.node.status if self.node else None

    @property
    def wanted(self) -> list[ModelReport]:
        """The models that are to be there."""
        return [model for model in self.status.models if model.wanted] if self.status else []

    def condition(self, kind: str) -> Condition | None:
        """A condition of the node by its type."""
        conditions = self.status.conditions if self.status else ()
        return next((each for each in conditions if each.type == kind), None)


def moment(at: datetime, text: str | None = None) -> Html:
    """A moment, in UTC; `text` is how it is put, by default the time of day."""
    stamp = f"{at:%Y-%m-%dT%H:%M:%SZ}"
    return element("time", text or f"{at:%H:%M:%S} UTC", datetime=stamp)


def ago(at: datetime, now: datetime) -> Html:
    """How long ago a moment is."""
    seconds = (now - at).total_seconds()
    return moment(at, "just now" if seconds < 1 else f"{duration(seconds)} ago")


def tried(report: ModelReport | CompileReport, now: datetime) -> Html | None:
    """How many tries failed, and when the next one is; None: none did."""
    if not report.attempts:
        return None
    at = report.retry_at
    planned = joined(", ", moment(at, next_try(report, now))) if at else None
    return element("span", tries(report), planned, class_="sub")


def counted(number: int, one: str, several: str | None = None) -> str:
    """`1 model`, `2 models`."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def text(words: str | None) -> Html:
    """A text of others, which keeps its direction of writing to itself."""
    return element("bdi", words) if words else Html("")


def short(revision: str) -> str:
    """A revision or digest as people tell it from others: its first twelve digits."""
    return revision.rpartition(":")[2][:12]


def code(words: str | None) -> Html:
    """A name or number as machines have it."""
    return element("code", words) if words else Html("")


def hidden(words: str) -> Html:
    """Only for who can't see the page."""
    return joined(element("span", words, class_="hidden"))
