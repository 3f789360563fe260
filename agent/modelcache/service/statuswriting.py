"""Objects' status: computed from what the mirrors have, written by the replica that leads."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog

from modelcache.api import API_VERSION, Condition
from modelcache.api.cachedmodel import NodeCounts
from modelcache.api.compilecache import CompileNodeCounts
from modelcache.api.meta import ApiModel
from modelcache.cluster.aggregating import (
    READY,
    ReadyReason,
    counts,
    recorded_conditions,
    status,
)
from modelcache.cluster.client import CACHED_MODELS, COMPILE_CACHES, Client, Object, Resource
from modelcache.cluster.compileaggregating import (
    CompileReadyReason,
    compile_counts,
    compile_status,
)
from modelcache.cluster.compiletallying import CompileTallies
from modelcache.cluster.counting import Counts
from modelcache.cluster.publishing import Recording
from modelcache.cluster.tallying import Tallies
from modelcache.errors import ClusterError
from modelcache.metrics import ControllerMetrics
from modelcache.service.pausing import Pause

log = structlog.get_logger(__name__)

ROUND_SECONDS: Final = 1.0
"""Between two looks. One at a time where nothing has changed costs next to nothing, and what comes
in meanwhile is looked at once."""

_SENT_A_SECOND: Final = 5000.0
"""Events that an API server may have to send for our sake: each write of a status goes to every
agent. 50 models on 5,000 nodes are then written once in 50 s each while they are being fetched."""
REFUSED_SECONDS: Final = 60.0
"""Until a write that was refused for good is tried again: somebody may have put it right."""


class Seen(Protocol):
    """What this needs of a Mirror."""

    @property
    def objects(self) -> Mapping[str, Object]:
        """By name."""

    @property
    def listed_at(self) -> float | None:
        """When the last list that succeeded began."""


NodeCounts_ = TypeVar("NodeCounts_")


@dataclass(frozen=True, slots=True)
class Kind(Generic[NodeCounts_]):
    """What a StatusWriter has to know of the objects that it writes to.

    Attributes:
        resource: where they are.
        name: the kind.
        word: what the log calls one.
        tallies: counts them.
        status: what is to be said of the one of a name.
        counts: how far the nodes are with the one of a name.
        quiet: reasons that are no event's.
        expected: reasons for which it is not ready, and nothing is wrong.
    """

    resource: Resource
    name: str
    word: str
    tallies: Counts[Any, Any, Any]
    status: Callable[[str, datetime], ApiModel]
    counts: Callable[[str], NodeCounts_]
    quiet: frozenset[str]
    expected: frozenset[str] = frozenset()


def models() -> Kind[NodeCounts]:
    """CachedModels."""
    tallies = Tallies()
    return Kind(
        CACHED_MODELS,
        "CachedModel",
        "model",
        tallies,
        lambda name, now: status(name, tallies, now),
        lambda name: counts(tallies.entries[name]),
        frozenset({ReadyReason.PROGRESSING, ReadyReason.NO_NODES_SELECTED}),
    )


def compile_caches() -> Kind[CompileNodeCounts]:
    """CompileCaches."""
    tallies = CompileTallies()
    return Kind(
        COMPILE_CACHES,
        "CompileCache",
        "compile_cache",
        tallies,
        lambda name, now: compile_status(name, tallies, now),
        lambda name: compile_counts(tallies.entries[name]),
        frozenset({CompileReadyReason.PROGRESSING, CompileReadyReason.NO_NODES_SELECTED}),
        # Until the first pod has compiled.
        frozenset({CompileReadyReason.NOTHING_PUBLISHED}),
    )


def keep_written(thing: Object) -> Object:
    """What of an object that people write a Mirror keeps for the controller."""
    metadata = thing["metadata"]
    kept = ("name", "uid", "generation", "resourceVersion")
    return {
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": thing.get("spec"),
        "status": thing.get("status") or {},
    }


@dataclass(slots=True)
class _Memory:
    """What is remembered of one object's writes.

    Attributes:
        written_at: when its status was last written.
        not_before: when it may be tried again after it failed.
        sent: the status as it was last sent, and as the server has it since: a server with an older
            CRD drops fields, and is not to be told them over and over.
        result: the object as the last write left it, until the mirror has it.
    """

    written_at: float = float("-inf")
    not_before: float = float("-inf")
    sent: tuple[Object, Object] | None = None
    result: Object | None = None


class StatusWriter(Generic[NodeCounts_]):
    """Writes what has changed of one kind. `cycle` is a task's."""

    def __init__(
        self,
        kind: Kind[NodeCounts_],
        *,
        client: Client,
        things: Seen,
        nodes: Seen,
        caches: Seen,
        leading: Callable[[], bool],
        events: Recording,
        metrics: ControllerMetrics,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`seconds`: at least so many between two writes of one object."""
        self._kind = kind
        self._client = client
        self._things, self._nodes, self._caches = things, nodes, caches
        self._leading = leading
        self._events = events
        self._metrics = metrics
        self._seconds = seconds
        self._clock = clock
        self._pause = Pause("status.write", clock)
        self._tallies = kind.tallies
        self._pending: set[str] = set()
        self._memory: defaultdict[str, _Memory] = defaultdict(_Memory)
        self.counts: Mapping[str, NodeCounts_] = {}
        """How far the nodes are with each object, as of the last look. Empty while not leading."""

    def cycle(self) -> float:
        """Write the status of each object that has another than it is to have.

        Nothing is concluded before all that it depends on was listed once.
        """
        if not self._leading():
            self.counts = {}
            return ROUND_SECONDS
        if any(seen.listed_at is None for seen in (self._things, self._nodes, self._caches)):
            return ROUND_SECONDS
        things = self._known()
        self._pending |= self._tallies.update(things, self._nodes.objects, self._caches.objects)
        self._pending &= things.keys()
        self.counts = {name: self._kind.counts(name) for name in self._tallies.entries}
        spread = len(things) * len(self._caches.objects) / _SENT_A_SECOND
        for name in sorted(self._pending, key=self._turn):
            if self._pause.left or not self._leading():
                break
            if self._settle(name, spread):
                self._pending.discard(name)
        return ROUND_SECONDS

    def _turn(self, name: str) -> tuple[float, float, str]:
        """Who waits longest comes first, and last who failed: one that always fails holds no other
        up."""
        memory = self._memory[name]
        return memory.not_before, memory.written_at, name

    def _known(self) -> Mapping[str, Object]:
        """The objects as the mirror has them, or as our own writes left them since."""
        seen = self._things.objects
        for name in [name for name in self._memory if name not in seen]:
            del self._memory[name]
        newer = {}
        for name, memory in self._memory.items():
            if memory.result is None:
                continue
            if _version(memory.result) > _version(seen[name]):
                newer[name] = memory.result
            else:
                memory.result = None
        return {**seen, **newer} if newer else seen

    def _settle(self, name: str, spread: float) -> bool:
        """Write one object's status if it is time; whether there is nothing more to do for it."""
        thing, memory = self._tallies.entries[name].thing, self._memory[name]
        is_, now = thing["status"], self._clock()
        moment = datetime.now(UTC).replace(microsecond=0)
        wanted = self._kind.status(name, moment).to_document()
        if wanted == is_ or (wanted, is_) == memory.sent:
            return True
        before, after = recorded_conditions(thing).get(READY), _ready(wanted)
        turns = before is None or _said(before) != _said(after)
        due = memory.written_at + (self._seconds if turns else max(self._seconds, spread))
        if now < max(due, memory.not_before):
            return False
        try:
            result = self._client.patch(
                self._kind.resource, name, _patch(thing, wanted), subresource="status"
            )
        except ClusterError as error:
            return self._failed(error, name, memory)
        self._pause.succeeded()
        self._metrics.wrote(self._kind.resource.plural, "ok")
        memory.result = keep_written(result)
        memory.sent = (wanted, memory.result["status"])
        memory.written_at = now
        if turns:
            event, subject = f"{self._kind.word}.status", {self._kind.word: name}
            log.info(event, **subject, reason=after.reason, message=after.message)
            self._tell(thing, before, after)
        return True

    def _failed(self, error: ClusterError, name: str, memory: _Memory) -> bool:
        """Note that a write failed; whether there is nothing more to do for the object as it is."""
        if error.status in (404, 409):
            # It is gone, or another than we knew, which the mirror is about to tell.
            self._metrics.wrote(self._kind.resource.plural, "conflict")
            return True
        self._metrics.wrote(self._kind.resource.plural, "error")
        if error.retryable:
            memory.not_before = self._clock()
            self._pause.failed(error)
        else:
            log.warning("status.refused", **{self._kind.word: name}, message=str(error))
            memory.not_before = self._clock() + REFUSED_SECONDS
        return False

    def _tell(self, thing: Object, before: Condition | None, after: Condition) -> None:
        if before is not None and before.reason == after.reason:
            return
        if after.reason in self._kind.quiet:
            return
        fine = after.status == "True" or after.reason in self._kind.expected
        kind = "Normal" if fine else "Warning"
        regarding = {
            "apiVersion": API_VERSION,
            "kind": self._kind.name,
            "name": thing["metadata"]["name"],
            "uid": thing["metadata"]["uid"],
        }
        self._events.record(regarding, kind, after.reason, "Aggregate", after.message)


def _patch(thing: Object, wanted: Object) -> Object:
    """A merge patch of the status that fails (409) when the object is not at this version any more:
    a newer generation's status is never overwritten by one that was computed before it."""
    gone: dict[str, Any] = dict.fromkeys(thing["status"].keys() - wanted.keys())
    version = thing["metadata"]["resourceVersion"]
    return {"metadata": {"resourceVersion": version}, "status": {**gone, **wanted}}


def _ready(document: Object) -> Condition:
    return recorded_conditions({"status": document})[READY]


def _said(condition: Condition) -> tuple[str, str, int | None]:
    return condition.status, condition.reason, condition.observed_generation


def _version(thing: Object) -> int:
    """Resource versions are comparable as integers (KEP-5504; it was always so with etcd)."""
    return int(thing["metadata"]["resourceVersion"])
