"""What happened on this node lately: the last things that were told, for who looks at its page.

They are the Events that a cluster is told, where there is one, and what transfers tell. Only this
process remembers them: what happened before it is in the log, and in the cluster's Events.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from modelcache.cluster.client import Object
from modelcache.service.evictionnews import NodeEvents
from modelcache.store import human_size
from modelcache.transfer.events import Event, FetchEnded, FetchStarted, HostPaused, MirrorFailed

_MOST: Final = 50
_MOST_TEXT: Final = 1000


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened, or the same one several times."""

    at: datetime
    """When, the last time."""
    warns: bool
    """Whether somebody may have to do something."""
    reason: str
    """What, as one CamelCase word."""
    about: str
    """The model or compile cache that it has to do with; empty: the node."""
    note: str
    """A sentence."""
    count: int = 1
    """How often."""

    def to_document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "at": self.at.isoformat(timespec="seconds"),
            "type": "Warning" if self.warns else "Normal",
            "reason": self.reason,
            **({"about": self.about} if self.about else {}),
            "message": self.note,
            "count": self.count,
        }


class Happenings:
    """The last things that happened. Safe for threads; whoever tells of one never waits."""

    def __init__(
        self,
        beside: Callable[[], NodeEvents | None] = lambda: None,
        *,
        most: int = _MOST,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Nothing has happened.

        Args:
            beside: who else is told what comes by `tell`, if there is anybody.
            most: so many are remembered.
            clock: gives the time.
        """
        self._beside = beside
        self._most = most
        self._clock = clock
        self._mutex = threading.Lock()
        self._known: OrderedDict[tuple[bool, str, str, str], Happening] = OrderedDict()

    def latest(self) -> tuple[Happening, ...]:
        """All that are remembered, the last one first."""
        with self._mutex:
            return tuple(reversed(self._known.values()))

    def note(self, what: str, about: str, note: str, *, warns: bool = False) -> None:
        """Remember one. What was told in the same words before happened again."""
        note = note.removeprefix(f"{about}: ") if about else note
        note = note if len(note) <= _MOST_TEXT else note[: _MOST_TEXT - 1] + "…"
        key = (warns, what, about, note)
        with self._mutex:
            before = self._known.pop(key, None)
            if before is None:
                self._known[key] = Happening(self._clock(), warns, what, about, note)
            else:
                self._known[key] = replace(before, at=self._clock(), count=before.count + 1)
            while len(self._known) > self._most:
                self._known.popitem(last=False)

    def record(
        self,
        regarding: Object,  # noqa: ARG002 - it is this node
        type_: str,
        reason: str,
        action: str,  # noqa: ARG002 - the reason says enough
        note: str,
        related: Object | None = None,
    ) -> None:
        """As the cluster's `Recorder` does."""
        about = str((related or {}).get("name", ""))
        self.note(reason, about, note, warns=type_ == "Warning")

    def tell(self, type_: str, reason: str, action: str, note: str, model: str) -> None:
        """What has to do with a model; the cluster is told as well."""
        self.note(reason, model, note, warns=type_ == "Warning")
        beside = self._beside()
        if beside is not None:
            beside.tell(type_, reason, action, note, model)

    def __call__(self, event: Event) -> None:
        """What transfers tell, as far as it is news to people."""
        if isinstance(event, FetchStarted):
            held = f", {human_size(event.held)} of them here" if event.held else ""
            size, files = (
                human_size(event.size),
                "1 file" if event.files == 1 else (f"{event.files} files"),
            )
            note = f"a fetch of {size} in {files} begins{held}"
            self.note("FetchStarted", event.model, note)
        elif isinstance(event, FetchEnded) and event.reason is None:
            rate = human_size(round(event.received / max(event.seconds, 1e-3)))
            seconds = f"{event.seconds:.3g}" if event.seconds < 100 else f"{event.seconds:.0f}"
            note = f"{human_size(event.received)} came in {seconds} s, {rate}/s"
            self.note("FetchEnded", event.model, note)
        elif isinstance(event, HostPaused):
            note = f"{event.host} asks for fewer requests: it gets {event.connections} connections"
            self.note("HostPaused", event.model, note, warns=True)
        elif isinstance(event, MirrorFailed):
            note = f"a mirror gave nothing of use ({event.reason.value}); the origin is asked"
            self.note("MirrorFailed", event.model, note, warns=True)
