"""What runs for models: a thread for each that resolves or fetches, and ends in a result."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from modelcache.api import CachedModel
from modelcache.errors import ModelCacheError, Reason
from modelcache.origins import Origin, OriginSettings, Revision, open_origin
from modelcache.planning.planner import Fetch, Resolve, Running
from modelcache.planning.sources import source_digest
from modelcache.service.progress import ActiveFetches
from modelcache.transfer import Cancel, Missing, ModelFetch, ModelFetcher, resolve
from modelcache.transfer.events import Listener, Resolved, Resolving, ignore

log = structlog.get_logger(__name__)

_STUCK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Found:
    """What a resolution gave, kept for the fetch that follows: and what the store lacks of it."""

    origin: Origin
    revision: Revision
    missing: Missing = Missing()  # noqa: RUF009 - it never changes


@dataclass(frozen=True, slots=True)
class Result:
    """The end of something that ran: a finding, an error, or for a fetch that succeeded neither."""

    name: str
    what: Running
    found: Found | None = None
    error: BaseException | None = None
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class _Work:
    what: Running
    cancel: Cancel
    thread: threading.Thread
    began: float


class Crew:
    """One thread for each model at work. Its methods are called from one thread."""

    def __init__(
        self,
        *,
        fetcher: ModelFetcher,
        origins: OriginSettings,
        progress: ActiveFetches,
        cancel: Cancel,
        on_end: Callable[[], None],
        jitter: float = 0.0,
        listener: Listener = ignore,
    ) -> None:
        """Start nothing yet.

        Args:
            fetcher, origins, progress, cancel: what fetches, from where, who is told, what stops.
            on_end: called, from any thread, when there is a result to be taken.
            jitter: seconds up to which a resolution waits, at random, before it begins. The nodes
                of a cluster learn of a model in the same moment; an origin sees them one by one.
            listener: is told of resolutions.
        """
        self._listener = listener
        self._jitter = jitter
        self._fetcher = fetcher
        self._origins = origins
        self._progress = progress
        self._cancel = cancel
        self._on_end = on_end
        self._work: dict[str, _Work] = {}
        self._ended: queue.SimpleQueue[tuple[Cancel, Result]] = queue.SimpleQueue()

    def start(self, model: CachedModel, found: Found | None) -> None:
        """Begin to fetch what was found; where nothing was, to resolve."""
        kind = Resolve if found is None else Fetch
        what = Running(kind, source_digest(model.spec.source))
        cancel = Cancel(self._cancel)
        thread = threading.Thread(
            target=self._run,
            args=(model, found, what, cancel),
            name=f"{kind.__name__.lower()}-{model.name}",
            daemon=True,
        )
        self._work[model.name] = _Work(what, cancel, thread, time.monotonic())
        thread.start()

    def stop(self, name: str) -> None:
        """Stop what runs for a model; nobody is interested in its result.

        A resolution may hang in a library's call: it is left behind at once. A fetch ends within
        seconds, and its result is waited for, so that no two fetch for one model.
        """
        work = self._work.get(name)
        if work is None:
            return
        work.cancel.set()
        if work.what.kind is Resolve:
            del self._work[name]
            self._on_end()

    def running(self) -> dict[str, Running]:
        """What runs now, by model."""
        now = time.monotonic()
        return {
            name: replace(work.what, stuck=self._is_stuck(name, work, now))
            for name, work in self._work.items()
        }

    def results(self) -> list[Result]:
        """What has ended since the last call."""
        found: list[Result] = []
        while True:
            try:
                cancel, result = self._ended.get_nowait()
            except queue.Empty:
                return found
            work = self._work.get(result.name)
            if work is not None and work.cancel is cancel:
                del self._work[result.name]
                found.append(result)

    def join(self, deadline: float) -> None:
        """Wait for those that were stopped, until a moment of `time.monotonic`."""
        for work in self._work.values():
            work.thread.join(max(0.0, deadline - time.monotonic()))

    def _is_stuck(self, name: str, work: _Work, now: float) -> bool:
        if work.what.kind is Resolve:
            return now - work.began >= _STUCK_SECONDS + self._jitter
        progress = self._progress.of(name)
        return progress is not None and progress.reason is not None

    def _run(self, model: CachedModel, found: Found | None, what: Running, cancel: Cancel) -> None:
        result: Found | None = None
        error: BaseException | None = None
        try:
            if found is None:
                result = self._resolve(model, cancel)
            else:
                self._fetch(model, found, cancel)
        except ModelCacheError as failure:
            error = failure
        except Exception as failure:
            # The thread's outermost line: one model's defect is its own failed try.
            log.exception("model.defect", model=model.name)
            error = failure
        stopped = cancel.is_set()
        cancel.close()
        self._ended.put((cancel, Result(model.name, what, result, error, stopped)))
        self._on_end()

    def _resolve(self, model: CachedModel, cancel: Cancel) -> Found:
        cancel.wait(self._jitter * random.random())  # noqa: S311 - no secret depends on it
        scheme = model.spec.source.parsed.scheme
        self._listener(Resolving(model.name, scheme))
        began = time.monotonic()
        revision, reason = None, None
        try:
            found = self._ask(model, cancel)
            revision = found.revision.id
            return replace(found, missing=self._fetcher.missing(_wanted(model, found)))
        except BaseException as error:
            reason = error.reason if isinstance(error, ModelCacheError) else Reason.INTERNAL
            raise
        finally:
            seconds = time.monotonic() - began
            self._listener(Resolved(model.name, scheme, seconds, revision, reason))

    def _ask(self, model: CachedModel, cancel: Cancel) -> Found:
        source = model.spec.source
        origin = open_origin(source, self._origins)
        return Found(origin, resolve(origin, source, cancel))

    def look_again(self, model: CachedModel, found: Found) -> Found:
        """What was found, with what the store lacks of it now."""
        return replace(found, missing=self._fetcher.missing(_wanted(model, found)))

    def _fetch(self, model: CachedModel, found: Found, cancel: Cancel) -> None:
        self._fetcher.fetch(_wanted(model, found), cancel)


def _wanted(model: CachedModel, found: Found) -> ModelFetch:
    return ModelFetch(
        model.name, model.spec.source, found.origin, found.revision, model.spec.priority
    )
