"""What runs for compile caches: a thread for each object at work, which ends in a result.

A place that hangs holds its own object up, and nobody else. Who is told to stop and hangs is left
behind; how many hang at a place counts against what may begin there.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

import structlog

from modelcache.api import CompileCache
from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.keys.differing import nearest
from modelcache.compilecache.keys.parts import Key
from modelcache.compilecache.places.fetching import UNREAD, Admitted, admit
from modelcache.compilecache.places.protocol import Place, Placed
from modelcache.compilecache.starts.holding import Holding
from modelcache.compilecache.trees.scanning import Limits as TreeLimits
from modelcache.errors import BrokenBundle, ModelCacheError, NotFound, Untrusted
from modelcache.planning.compilecaches import Fetch, Look, Publish, Running, Work
from modelcache.planning.compiletrials import Offer
from modelcache.transfer import Cancel

log = structlog.get_logger(__name__)

STUCK_SECONDS: Final = 15.0
_MOST_OFFERS: Final = 8
"""So many of the newest generations of a key are looked into."""
_MOST_OTHERS: Final = 8
"""So many other keys are looked into, to say in what they differ."""
_MOST_DIFFERENCES: Final = 3
_MOST_KNOWN: Final = 512


class GoneHere(NotFound):
    """What is to be published is not on this node any more."""


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work.

    Attributes:
        work: what is to be done.
        spec: the object's `spec_digest`.
        cache: the object.
        key: this node's for it.
        trust: whom this node trusts for it.
        place: as `Need.place`.
        limits: of what is taken.
        hinted: hints that a look answers.
        explain: whether a look that finds nothing is to say what is there for other keys.
    """

    work: Work
    spec: str
    cache: CompileCache
    key: Key
    trust: Trust
    place: str
    limits: TreeLimits
    hinted: frozenset[str] = frozenset()
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Looked:
    """What a place has for a key: what can be used, and what can't with why.

    `nearest`: in what the nearest bundle for another key differs, as a sentence.
    """

    offers: tuple[Offer, ...]
    refused: Mapping[str, str]
    nearest: str


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a job: what a look found, or an error, or neither."""

    job: Job
    looked: Looked | None = None
    error: BaseException | None = None
    stopped: bool = False


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


@dataclass(slots=True)
class _Admissions:
    """What was decided of bundles: a digest is always the same bytes. Safe for threads."""

    known: OrderedDict[tuple[object, ...], Admitted | str] = field(default_factory=OrderedDict)
    mutex: threading.Lock = field(default_factory=threading.Lock)

    def of(self, place: Place, placed: Placed, job: Job, cancel: Cancel) -> Admitted | str:
        """The bundle, or why it is not taken. Raises as `fetching.admit` but for that."""
        trust = job.trust
        key = job.place, placed, tuple(trust.keys), frozenset(trust.digests)
        with self.mutex:
            found = self.known.get(key)
        if found is not None:
            return found
        try:
            found = admit(place, placed, trust, cancel, limits=job.limits)
        except (Untrusted, BrokenBundle) as error:
            found = str(error)
        with self.mutex:
            self.known[key] = found
            while len(self.known) > _MOST_KNOWN:
                self.known.popitem(last=False)
        return found


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
        self._admissions = _Admissions()
        self._work: dict[str, _Work] = {}
        self._left: list[_Work] = []
        self._ended: queue.SimpleQueue[tuple[Cancel, Result]] = queue.SimpleQueue()

    def start(self, job: Job) -> None:
        """Begin; nothing runs for the object yet."""
        cancel = Cancel(self._cancel)
        name = job.work.name
        thread = threading.Thread(
            target=self._run,
            args=(job, cancel),
            name=f"compile-{type(job.work).__name__.lower()}-{name}",
            daemon=True,
        )
        self._work[name] = _Work(job, cancel, thread, self._clock())
        thread.start()

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
                    result = replace(result, looked=self._look(job, cancel))
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

    def _look(self, job: Job, cancel: Cancel) -> Looked:
        place = self._open_place(job.cache)
        offers: list[Offer] = []
        refused: dict[str, str] = {}
        unread: ModelCacheError | None = None
        for placed in place.generations(job.key.digest, _MOST_OFFERS):
            try:
                found = _own(self._admissions.of(place, placed, job, cancel), job)
            except NotFound:
                continue  # it was removed meanwhile
            except UNREAD as error:
                log.warning("bundle.unread", digest=placed.digest, message=str(error))
                unread = unread or error
                continue
            if isinstance(found, str):
                refused[placed.digest] = found
            else:
                at = found.statement.created_at.timestamp()
                offers.append(Offer(placed.digest, at))
        if unread is not None and not offers:
            raise unread
        said = ""
        if job.explain and not offers:
            said = self._nearest(place, job, cancel)
        return Looked(tuple(offers), refused, said)

    def _nearest(self, place: Place, job: Job, cancel: Cancel) -> str:
        """In what the nearest of some bundles for other keys differs from what is wanted here."""
        keys: list[Key] = []
        names: dict[str, str] = {}
        for key in place.keys()[:_MOST_OTHERS]:
            for placed in place.generations(key, 1):
                with suppress(NotFound, *UNREAD):
                    found = self._admissions.of(place, placed, job, cancel)
                    if not isinstance(found, str):
                        keys.append(found.statement.key)
                        names[keys[-1].digest] = found.statement.name
        told = nearest(job.key, keys)
        if told is None:
            return ""
        other, differing = told
        whose = names[other.digest]
        whose = "" if whose == job.work.name else f" (of {whose})"
        sentences = [difference.sentence for difference in differing[:_MOST_DIFFERENCES]]
        if len(differing) > _MOST_DIFFERENCES:
            sentences.append(f"and {len(differing) - _MOST_DIFFERENCES} more")
        return f"the nearest bundle there{whose} differs: {', '.join(sentences)}"

    def _fetch(self, job: Job, digest: str, cancel: Cancel) -> None:
        place = self._open_place(job.cache)
        placed = place.find(digest, job.key.digest)
        if placed is None:
            raise NotFound(f"{place.uri} has the bundle {digest} no longer")
        found = _own(self._admissions.of(place, placed, job, cancel), job)
        if isinstance(found, str):
            raise Untrusted(found)
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


def _own(found: Admitted | str, job: Job) -> Admitted | str:
    """The bundle if it is the object's own: another one may have the same key, and the same place,
    and other publishers."""
    name = job.work.name
    if isinstance(found, str) or found.statement.name == name:
        return found
    return f"it is a bundle of {found.statement.name}, not of {name}"
