"""What runs for compile caches: a thread for each object at work, which ends in a result.

A place that hangs holds its own object up, and nobody else. Who is told to stop and hangs is left
behind; how many hang at a place counts against what may begin there.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import structlog

from modelcache.api import CompileCache
from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.places.fetching import Admitted
from modelcache.compilecache.places.protocol import Place
from modelcache.compilecache.starts.holding import Holding
from modelcache.errors import ModelCacheError, NotFound
from modelcache.planning.compileactions import Fetch, Look, Publish
from modelcache.planning.compilebudget import Running
from modelcache.service.compilecache.jobs import Job, Result
from modelcache.service.compilecache.looking import Looking, own
from modelcache.transfer import Cancel

log = structlog.get_logger(__name__)

STUCK_SECONDS: Final = 15.0


class GoneHere(NotFound):
    """What is to be published is not on this node any more."""


class Bring(Protocol):
    """Brings a bundle that was admitted into its place on this node: `BundleFetcher.fetch`."""

    def __call__(
        self, place: Place, found: Admitted, into: Path, cancel: Cancel, *, name: str
    ) -> object:
        """Bring it.

        Raises:
            ModelCacheError
        """


@dataclass(slots=True)
class _Work:
    job: Job
    cancel: Cancel
    thread: threading.Thread
    began: float


class Crew:
    """One thread for each object at work. Its methods are called from one thread."""

    def __init__(
        self,
        *,
        open_place: Callable[[CompileCache], Place],
        bring: Bring,
        holding: Holding,
        cancel: Cancel,
        on_end: Callable[[], None],
        jitter: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start nothing yet.

        Args:
            open_place, bring, holding, cancel: from where, how, to where, and what stops.
            on_end: called, from any thread, when there is a result to be taken.
            jitter: seconds up to which a look waits, at random: the nodes of a cluster learn of an
                object in the same moment.
            clock: a monotonic one, in seconds.
        """
        self._open_place = open_place
        self._bring = bring
        self._holding = holding
        self._cancel = cancel
        self._on_end = on_end
        self._jitter = jitter
        self._clock = clock
        self._looking = Looking()
        self._work: dict[str, _Work] = {}
        self._left: list[_Work] = []
        self._ended: queue.SimpleQueue[tuple[Cancel, Result]] = queue.SimpleQueue()

    def start(self, job: Job) -> None:
        """Begin; nothing runs for the object yet.

        Raises:
            ModelCacheError: no thread can be had.
        """
        cancel = Cancel(self._cancel)
        name = job.work.name
        thread = threading.Thread(
            target=self._run,
            args=(job, cancel),
            name=f"compile-{type(job.work).__name__.lower()}-{name}",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError as error:
            cancel.close()
            raise ModelCacheError(
                f"no thread can be started ({error}): raise the limit of processes of the agent"
            ) from error
        self._work[name] = _Work(job, cancel, thread, self._clock())

    def stop(self, name: str) -> None:
        """Stop what runs for an object; nobody is interested in its result, or waits for its
        end."""
        work = self._work.pop(name, None)
        if work is not None:
            work.cancel.set()
            self._left.append(work)

    def running(self) -> dict[str, Running]:
        """What runs now, by object."""
        now = self._clock()
        return {
            name: Running(
                work.job.work,
                work.job.spec,
                work.job.key.digest,
                work.job.place,
                # A fetch is watched over by the transfer engine: it may take hours.
                stuck=not isinstance(work.job.work, Fetch)
                and now - work.began >= STUCK_SECONDS + self._jitter,
            )
            for name, work in self._work.items()
        }

    def left_behind(self) -> Counter[str]:
        """How much hangs that nobody waits for, by place."""
        self._left = [work for work in self._left if work.thread.is_alive()]
        return Counter(work.job.place for work in self._left)

    def results(self) -> list[Result]:
        """What has ended since the last call."""
        found: list[Result] = []
        while True:
            try:
                cancel, result = self._ended.get_nowait()
            except queue.Empty:
                return found
            work = self._work.get(result.job.work.name)
            if work is not None and work.cancel is cancel:
                del self._work[result.job.work.name]
                found.append(result)

    def join(self, deadline: float) -> None:
        """Wait for those that were stopped, until a moment of `time.monotonic`."""
        for work in self._work.values():
            work.thread.join(max(0.0, deadline - time.monotonic()))

    # In a thread of its own

    def _run(self, job: Job, cancel: Cancel) -> None:
        result = Result(job)
        try:
            match job.work:
                case Look():
                    cancel.wait(self._jitter * random.random())  # noqa: S311 - no secret
                    place = self._open_place(job.cache)
                    result = replace(result, looked=self._looking.look(place, job, cancel))
                case Fetch(_, digest):
                    self._fetch(job, digest, cancel)
                case Publish(_, digest):
                    self._publish(job, digest, cancel)
        except (ModelCacheError, OSError) as failure:
            result = replace(result, error=failure)
        except Exception as failure:
            # The thread's outermost line: one object's defect is its own failed try.
            log.exception("compile_cache.defect", compile_cache=job.work.name)
            result = replace(result, error=failure)
        result = replace(result, stopped=cancel.is_set())
        cancel.close()
        self._ended.put((cancel, result))
        self._on_end()

    def _fetch(self, job: Job, digest: str, cancel: Cancel) -> None:
        place = self._open_place(job.cache)
        placed = place.find(digest, job.key.digest)
        if placed is None:
            raise NotFound(f"{place.uri} has the bundle {digest} no longer")
        found = own(place, placed, job, cancel)
        name = job.work.name
        layout = self._holding.layout
        into = layout.compile_bundle(name, placed.key, digest.removeprefix("sha256:"))
        # As no model is called.
        self._bring(place, found, into, cancel, name=f"compile/{name}")

    def _publish(self, job: Job, digest: str, cancel: Cancel) -> None:
        hexadecimal = digest.removeprefix("sha256:")
        held = next((h for h in self._holding.of(job.work.name) if h.digest == hexadecimal), None)
        if held is None:
            raise GoneHere(f"{job.work.name}: the bundle {digest} is not on this node any more")
        place = self._open_place(job.cache)
        fresh = place.publish(LocalBundle.open(held.directory), cancel)
        log.info(
            "bundle.published",
            compile_cache=job.work.name,
            digest=digest,
            place=place.uri,
            known=not fresh,
        )
