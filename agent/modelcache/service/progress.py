"""How far each fetch is: the events of the transfers, added up."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from modelcache.errors import Reason
from modelcache.planning.describing import Progress
from modelcache.transfer.events import (
    BytesDropped,
    BytesLeft,
    BytesReceived,
    BytesResumed,
    BytesUnpacked,
    Committing,
    Event,
    FetchEnded,
    FetchStarted,
    Retried,
    Unpacking,
)


@dataclass(slots=True)
class _Fetch:
    """One that is under way. The fields are those of `Progress`."""

    revision: str
    done: int
    total: int
    files: int
    started_at: float
    moved: int = 0
    committing: bool = False
    unpacking: bool = False
    reason: Reason | None = None
    message: str | None = None

    def come(self, size: int) -> None:
        """Bytes are there that were not."""
        self.done += size
        self.reason = self.message = None

    def now(self) -> Progress:
        """As it is at this moment."""
        return Progress(
            revision=self.revision,
            done=self.done,
            total=self.total,
            moved=self.moved,
            files=self.files,
            committing=self.committing,
            unpacking=self.unpacking,
            started_at=self.started_at,
            reason=self.reason,
            message=self.message,
        )


class ActiveFetches:
    """Progress of what is being fetched, by model, and nothing of what was. A listener; safe for
    threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._fetches: dict[str, _Fetch] = {}

    def __call__(self, event: Event) -> None:
        """Note an event."""
        with self._mutex:
            if isinstance(event, FetchStarted):
                self._fetches[event.model] = _Fetch(
                    event.revision, event.held, event.size, event.files, time.time()
                )
                return
            fetch = self._fetches.get(event.model)
            if fetch is None:
                return
            # There is one for each part that comes: no other is looked for first.
            if isinstance(event, BytesReceived | BytesUnpacked):
                fetch.come(event.size)
                fetch.moved += event.size
            elif isinstance(event, BytesResumed):
                fetch.come(event.size)
            elif isinstance(event, Retried):
                fetch.reason, fetch.message = event.reason, event.message
            elif isinstance(event, BytesDropped | BytesLeft):
                fetch.done = max(0, fetch.done - event.size)
            elif isinstance(event, Unpacking):
                fetch.done, fetch.total, fetch.moved = 0, event.size, 0
                fetch.unpacking = True
                fetch.reason = fetch.message = None
            elif isinstance(event, Committing):
                fetch.committing = True
            elif isinstance(event, FetchEnded):
                del self._fetches[event.model]

    def of(self, model: str) -> Progress | None:
        """How far a model is, while it is being fetched."""
        with self._mutex:
            fetch = self._fetches.get(model)
            return None if fetch is None else fetch.now()

    def is_moving(self) -> bool:
        """Whether anything is being fetched that doesn't wait for an origin to come back."""
        with self._mutex:
            return any(fetch.reason is None for fetch in self._fetches.values())

    def all(self) -> dict[str, Progress]:
        """All fetches under way."""
        with self._mutex:
            return {model: fetch.now() for model, fetch in self._fetches.items()}


class ProgressBook(ActiveFetches):
    """That, and how the last fetch of each model ended: for a command, which has few models."""

    def __init__(self) -> None:
        super().__init__()
        self._ended: dict[str, FetchEnded] = {}

    def __call__(self, event: Event) -> None:
        """Note an event."""
        # First: who sees that a fetch is over is told how it ended.
        if isinstance(event, FetchEnded):
            with self._mutex:
                self._ended[event.model] = event
        elif isinstance(event, FetchStarted):
            with self._mutex:
                self._ended.pop(event.model, None)
        super().__call__(event)

    def succeeded(self, model: str) -> bool:
        """Whether a model's last fetch ended well."""
        with self._mutex:
            return model in self._ended and self._ended[model].reason is None

    def ended(self, model: str) -> FetchEnded | None:
        """How a model's last fetch ended; None when none has, or another has begun."""
        with self._mutex:
            return self._ended.get(model)
