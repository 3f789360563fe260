"""How far each fetch is: the events of the transfers, added up."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

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


class ProgressBook:
    """Progress by model. A listener; safe for threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._fetches: dict[str, Progress] = {}
        self._ended: dict[str, FetchEnded] = {}

    def __call__(self, event: Event) -> None:
        """Note an event."""
        with self._mutex:
            if isinstance(event, FetchEnded):
                self._fetches.pop(event.model, None)
                self._ended[event.model] = event
                return
            if isinstance(event, FetchStarted):
                self._ended.pop(event.model, None)
                self._fetches[event.model] = Progress(
                    revision=event.revision,
                    done=event.held,
                    total=event.size,
                    files=event.files,
                    started_at=time.time(),
                )
                return
            now = self._fetches.get(event.model)
            if now is None:
                return
            if isinstance(event, Unpacking):
                self._fetches[event.model] = replace(
                    now,
                    done=0,
                    total=event.size,
                    moved=0,
                    unpacking=True,
                    reason=None,
                    message=None,
                )
            elif isinstance(event, BytesReceived | BytesResumed | BytesUnpacked):
                resumed = isinstance(event, BytesResumed)
                self._fetches[event.model] = replace(
                    now,
                    done=now.done + event.size,
                    moved=now.moved + (0 if resumed else event.size),
                    reason=None,
                    message=None,
                )
            elif isinstance(event, Retried):
                self._fetches[event.model] = replace(
                    now, reason=event.reason, message=event.message
                )
            elif isinstance(event, BytesDropped | BytesLeft):
                self._fetches[event.model] = replace(now, done=max(0, now.done - event.size))
            elif isinstance(event, Committing):
                self._fetches[event.model] = replace(now, committing=True)

    def of(self, model: str) -> Progress | None:
        """How far a model is, while it is being fetched."""
        with self._mutex:
            return self._fetches.get(model)

    def succeeded(self, model: str) -> bool:
        """Whether a model's last fetch ended well."""
        with self._mutex:
            return model in self._ended and self._ended[model].reason is None

    def ended(self, model: str) -> FetchEnded | None:
        """How a model's last fetch ended; None when none has, or another has begun."""
        with self._mutex:
            return self._ended.get(model)

    def is_moving(self) -> bool:
        """Whether anything is being fetched that doesn't wait for an origin to come back."""
        with self._mutex:
            return any(progress.reason is None for progress in self._fetches.values())

    def all(self) -> dict[str, Progress]:
        """All fetches under way."""
        with self._mutex:
            return dict(self._fetches)
