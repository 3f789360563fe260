"""Events: what changed, for people who ask `kubectl describe` and `kubectl get events`.

They never hold anything up: what can't be sent is dropped, and counted. The same thing told again
within some minutes is one Event with a count. They go through `events.k8s.io/v1`, whose limits are
kept here: a note of a kilobyte, reason and action of 128 bytes.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from modelcache.cluster.client import EVENTS, Client, Object
from modelcache.cluster.failures import Failures
from modelcache.cluster.resources import micro_time
from modelcache.errors import ClusterError

NAMESPACE: Final = "default"
"""Where Events on cluster-scoped objects are, and where our programs may write some."""
OLD_NAMESPACE: Final = "kube-system"
"""Where they are on an API server from before 1.23, which takes them only there
(https://github.com/kubernetes/kubernetes/pull/100125). Who runs one gives the rights to it."""

_MOST_WAITING: Final = 1000
_MOST_REMEMBERED: Final = 4096
_SERIES_SECONDS: Final = 600.0
_UPDATE_SECONDS: Final = 60.0
_BURST: Final = 25
_REFILL_SECONDS: Final = 60.0
"""For each object: so many new Events at once, and one more each minute."""
_ROUND: Final = 50
_IDLE_SECONDS: Final = 2.0
_BUSY_SECONDS: Final = 1.0
_FIRST_AGAIN_SECONDS: Final = 5.0
_MOST_AGAIN_SECONDS: Final = 120.0
_NOTE_BYTES: Final = 1024
_WORD_BYTES: Final = 128
_NAME_BYTES: Final = 200

_Key = tuple[str, ...]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Event:
    """One that is to be sent. Its name is given once: sent twice it is refused as there already."""

    key: _Key
    about: _Key
    name: str
    document: Object
    at: str


@dataclass(slots=True)
class _Series:
    """An Event that the API server has, told again since."""

    name: str
    namespace: str
    count: int
    sent: int
    sent_at: float
    observed_at: float
    last: str


class _Budget:
    """How many new Events an object may have: a token bucket."""

    def __init__(self, now: float) -> None:
        self._left = float(_BURST)
        self._at = now

    def has_some(self, now: float) -> bool:
        self._left = min(_BURST, self._left + (now - self._at) / _REFILL_SECONDS)
        self._at = now
        return self._left >= 1.0

    def take(self) -> None:
        self._left -= 1.0


class Recorder:
    """Sends Events. `record` is for any thread; `cycle` is a task's."""

    def __init__(
        self,
        client: Client,
        controller: str,
        instance: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`controller` is who speaks, such as `modelcache.dev/agent`; `instance` which one of them.

        Nothing is sent before the first `cycle`.
        """
        self._client = client
        self._controller = controller
        self._instance = _cut(instance, _WORD_BYTES)
        self._clock = clock
        self._failures = Failures(
            "events", first=_FIRST_AGAIN_SECONDS, most=_MOST_AGAIN_SECONDS, clock=clock
        )
        self._namespace = NAMESPACE
        self._series: OrderedDict[_Key, _Series] = OrderedDict()
        self._budgets: OrderedDict[_Key, _Budget] = OrderedDict()
        self._mutex = threading.Lock()
        self._waiting: deque[_Event] = deque()
        self._again_at = float("-inf")
        self.dropped = 0
        """Events that were never sent."""

    def record(
        self,
        regarding: Object,
        type_: str,
        reason: str,
        action: str,
        note: str,
        related: Object | None = None,
    ) -> None:
        """Note an Event, to be sent soon. Never raises, never waits.

        Args:
            regarding: the object that it is about: apiVersion, kind, name, uid where it is known,
                and namespace where it has one.
            type_: `Normal` or `Warning`.
            reason: why, as one CamelCase word; the same reason for the same object is the same
                Event as long as no ten minutes pass between two.
            action: what was done or tried, as one CamelCase word.
            note: a sentence; cut at a kilobyte. That of the first of the same Event stays.
            related: another object that it has to do with.
        """
        reason, at = _cut(reason, _WORD_BYTES), micro_time()
        about = _object_key(regarding)
        name = f"{str(regarding.get('name'))[:_NAME_BYTES].rstrip('.-')}.{uuid.uuid4().hex[:16]}"
        document: Object = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "eventTime": at,
            "type": type_,
            "reason": reason,
            "action": _cut(action, _WORD_BYTES),
            "note": _cut(note, _NOTE_BYTES),
            "regarding": regarding,
            "reportingController": self._controller,
            "reportingInstance": self._instance,
        }
        if related is not None:
            document["related"] = related
        key = (*about, type_, reason, *_object_key(related or {}))
        with self._mutex:
            if len(self._waiting) >= _MOST_WAITING:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(_Event(key, about, name, document, at))

    def cycle(self) -> float:
        """Send what waits, and bring counts that have grown to the API server.

        Returns:
            Seconds until the next round is due.
        """
        now = self._clock()
        if now < self._again_at:
            return self._again_at - now
        try:
            for _ in range(_ROUND):
                with self._mutex:
                    event = self._waiting[0] if self._waiting else None
                if event is None:
                    return self._update()
                self._take(event)
                with self._mutex:
                    # Unless it was dropped meanwhile, for a newer one.
                    if self._waiting and self._waiting[0] is event:
                        self._waiting.popleft()
        except ClusterError as error:
            pause = self._failures.failed(error)
            self._again_at = self._clock() + pause
            return pause
        return _BUSY_SECONDS

    def _take(self, event: _Event) -> None:
        """Send one, or count it. Raises ClusterError where it is to be tried again."""
        now = self._clock()
        series = self._series.get(event.key)
        if series is not None and now - series.observed_at < _SERIES_SECONDS:
            series.count += 1
            series.observed_at, series.last = now, event.at
            return
        budget = self._budgets.get(event.about) or _Budget(now)
        _remember(self._budgets, event.about, budget)
        if not budget.has_some(now):
            self._drop()
            return
        namespace = self._create(event)
        budget.take()
        if namespace is not None:
            series = _Series(event.name, namespace, 1, 1, now, now, event.at)
            _remember(self._series, event.key, series)

    def _create(self, event: _Event) -> str | None:
        """Create an Event; the namespace that it is in. None: the server doesn't want it."""
        namespace = event.document["regarding"].get("namespace") or self._namespace
        try:
            self._create_in(event, namespace)
        except ClusterError as error:
            if error.retryable:
                raise
            if error.status == 422 and namespace == NAMESPACE:
                return self._create_elsewhere(event)
            self._refused(error)
            return None
        self._failures.settled()
        return str(namespace)

    def _create_elsewhere(self, event: _Event) -> str | None:
        try:
            self._create_in(event, OLD_NAMESPACE)
        except ClusterError as error:
            if error.retryable:
                raise
            self._refused(error)
            return None
        self._namespace = OLD_NAMESPACE
        return OLD_NAMESPACE

    def _create_in(self, event: _Event, namespace: str) -> None:
        metadata = {"name": event.name, "namespace": namespace}
        try:
            self._client.create(EVENTS, {**event.document, "metadata": metadata}, namespace)
        except ClusterError as error:
            if error.status != 409:
                raise  # else it was created before, and the answer never came

    def _update(self) -> float:
        """Bring counts that have grown to the API server, each at most once a minute."""
        now = self._clock()
        for key, series in list(self._series.items()):
            if series.count > series.sent:
                if now - series.sent_at >= _UPDATE_SECONDS:
                    self._patch(key, series)
            elif now - series.observed_at >= _SERIES_SECONDS:
                del self._series[key]
        return _IDLE_SECONDS

    def _patch(self, key: _Key, series: _Series) -> None:
        change = {"series": {"count": series.count, "lastObservedTime": series.last}}
        try:
            self._client.patch(EVENTS, series.name, change, namespace=series.namespace)
        except ClusterError as error:
            if error.retryable:
                raise
            if error.status == 404:
                # The server keeps Events for an hour. The next is a new one.
                del self._series[key]
                return
            self._failures.failed(error)
        else:
            self._failures.settled()
        series.sent, series.sent_at = series.count, self._clock()

    def _refused(self, error: ClusterError) -> None:
        """Tell of it, once for each kind: the others need not fare the same."""
        self._failures.failed(error)
        self._drop()

    def _drop(self) -> None:
        with self._mutex:
            self.dropped += 1


def _object_key(thing: Object) -> _Key:
    names = ("kind", "namespace", "name", "uid")
    return tuple(str(thing.get(name) or "") for name in names)


def _remember(remembered: OrderedDict[_Key, _T], key: _Key, what: _T) -> None:
    """Put it last, and forget the first of too many."""
    remembered[key] = what
    remembered.move_to_end(key)
    while len(remembered) > _MOST_REMEMBERED:
        remembered.popitem(last=False)


def _cut(text: str, most: int) -> str:
    """A text of at most so many bytes. What is no Unicode, as of a file's name, is replaced."""
    encoded = text.encode(errors="replace")
    if len(encoded) > most:
        encoded = encoded[: most - 3].decode(errors="ignore").encode() + "…".encode()
    return encoded.decode()
