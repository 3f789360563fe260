"""List, then watch: the objects of one kind as the API server last had them.

The client's own `watch.stream` gives up after a second 410, and a time-out switches even that off;
so the loop is ours. Nothing but a list that succeeded or an event makes an object go away: a server
that is gone, refuses, hangs or does not know the kind leaves everything as it was.

Time never goes back. A list asks for a state that is not older than the last one seen
(`resourceVersionMatch=NotOlderThan`), so that the server's cache may answer it; a watch goes on
where the last one ended. Only what was asked for anew (`relist`), what a server refused to give
from its cache, and what is listed in pages, is read from its database: there the newest state is
the truth, even if its version is lower, as after a restored backup. Resource versions are opaque by
contract, but those of Kubernetes' own storage are integers and may be compared (officially so since
1.35, KEP-5504): where both are, an answer that is older than what was asked for is not taken in.
Where they are not, nothing is concluded.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from modelcache.cluster.client import SILENT, Client, Listing, Object, Resource, Watching
from modelcache.cluster.failures import Failures
from modelcache.cluster.known import Known
from modelcache.errors import ClusterError

log = structlog.get_logger(__name__)

_STOPPED_SECONDS: Final = 60.0
_RESUME_SECONDS: Final = 0.2
_STEADY_SECONDS: Final = 10.0
"""A stream that lasts so long works, even if nothing happens."""
_QUIET_EXPIRIES: Final = 2
"""A resource version that is too old is an ordinary thing, but not again and again."""
_OUTDATED: Final = "Outdated"
_NOW: Final = float("-inf")


class Mirror:
    """The objects of one kind. `cycle` is a task's; everything else may be used from any thread."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        keep: Callable[[Object], Object] = lambda thing: thing,
        paged: bool = False,
        on_change: Callable[[], None] = lambda: None,
        watch_seconds: float = 300.0,
        resync_seconds: float = 1800.0,
        silence_seconds: float = 90.0,
        spread_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet.

        Args:
            client: who asks.
            resource: the kind.
            namespace: of one namespace; of all, when empty.
            labels, fields: selectors.
            keep: what of an object is kept; what it leaves out is no news.
            paged: list some hundred at a time, for which the server reads its database. For who
                watches thousands of objects: untrimmed, all at once, they are gigabytes. Not for
                what each of thousands of agents asks.
            on_change: called, from the thread of `cycle`, when `objects` has changed, and when the
                first list has come.
            watch_seconds: about how long one stream lasts.
            resync_seconds: about how often everything is listed anew, for what a stream missed.
            silence_seconds: how long a stream may say nothing, not even a bookmark, before another
                one is opened. Longer where it turns out that the server has nothing to say.
            spread_seconds: over which all agents of a cluster come back, that notice the end of a
                stream in the same moment.
            clock: a monotonic one, in seconds.
        """
        self._client = client
        self._resource = resource
        self._where = {"namespace": namespace, "labels": labels, "fields": fields}
        self._keep = keep
        self._paged = paged
        self._on_change = on_change
        self._watch_seconds = watch_seconds
        self._resync_seconds = resync_seconds
        self._silence_seconds = silence_seconds
        self._spread_seconds = spread_seconds
        self._clock = clock
        # Of the thread of `cycle`:
        self._known = Known()
        self._failures = Failures("watch", clock=clock, resource=str(resource))
        self._version = ""
        self._patience = silence_seconds
        self._doubt = False
        self._expiries = 0
        # Of all threads:
        self._mutex = threading.Lock()
        self._listed_at: float | None = None
        self._trouble: ClusterError | None = None
        self._list_at = _NOW
        self._newest = False
        self._stopped = False
        self._interrupted = False
        self._stream: Watching | None = None

    @property
    def objects(self) -> Mapping[str, Object]:
        """What is kept of each object, by name, or `namespace/name`. Never changes."""
        return self._known.objects

    @property
    def listed_at(self) -> float | None:
        """When the last list that succeeded began, by the clock; None: there was none yet."""
        return self._listed_at

    @property
    def deleted(self) -> Mapping[str, float]:
        """The objects whose deletion was told and that have not come back, with the moment; the
        latest thousand."""
        return self._known.deleted

    @property
    def trouble(self) -> ClusterError | None:
        """Why it doesn't go on now; None while it does."""
        return self._trouble

    def relist(self) -> None:
        """Have the newest state listed, soon: not from the server's cache, which may lag."""
        with self._mutex:
            self._newest = True
            self._list_at = min(self._list_at, self._clock() + self._some_seconds())
            self._interrupt()

    def stop(self) -> None:
        """End a stream in progress, and begin no other."""
        with self._mutex:
            self._stopped = True
            self._interrupt()

    def cycle(self) -> float:
        """List, where it is due, then watch until the stream ends.

        Returns:
            Seconds until the next round is due.
        """
        if self._stopped:
            return _STOPPED_SECONDS
        try:
            if self._list_is_due():
                self._list()
            left = self._list_at - self._clock()
            if left <= self._spread_seconds:
                return max(0.0, left)  # not worth a stream
            return self._watch(left)
        except ClusterError as error:
            return self._failed(error)

    # Listing

    def _list_is_due(self) -> bool:
        return self._clock() >= self._list_at

    def _list_soon(self) -> None:
        with self._mutex:
            self._list_at = min(self._list_at, self._clock() + self._some_seconds())

    def _list(self) -> None:
        with self._mutex:
            newest, self._newest = self._newest, False
        began = self._clock()
        asked = "" if newest or self._paged else self._version or "0"
        found: dict[str, Object] = {}
        try:
            for page in self._client.pages(self._resource, not_older_than=asked, **self._where):
                version = page.resource_version
                if asked and is_older(version, asked):
                    what = f"{self._resource}: the list is older than what was asked for"
                    raise ClusterError(what, code=_OUTDATED)
                found |= self._trimmed(page)
        except ClusterError as error:
            with self._mutex:
                # What can't be had from the server's cache is to be had from its database.
                self._newest |= newest or _wants_newest(error)
            raise
        self._take_all(found, version, began)

    def _trimmed(self, page: Listing) -> dict[str, Object]:
        things = {_key(thing): thing for thing in page.items}
        kept = {key: self._kept(key, thing) for key, thing in things.items()}
        return {key: thing for key, thing in kept.items() if thing is not None}

    def _take_all(self, found: Mapping[str, Object], version: str, began: float) -> None:
        news = self._known.replace(found) or self._listed_at is None
        self._version = version
        self._doubt = False
        self._listed_at = began
        self._trouble = None
        self._failures.works()
        resync = self._resync_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
        with self._mutex:
            # It was asked for again meanwhile, or it was not.
            soon = self._clock() + self._some_seconds()
            self._list_at = soon if self._newest else began + resync
        if news:
            self._on_change()

    # Watching

    def _watch(self, most: float) -> float:
        """Watch until the stream ends; seconds until the next round."""
        lasts = self._watch_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
        lasts = max(1.0, min(lasts, most))
        with self._client.watch(
            self._resource,
            self._version,
            **self._where,
            seconds=lasts,
            silence=self._patience,
        ) as stream:
            with self._mutex:
                if self._stopped or self._clock() + self._spread_seconds >= self._list_at:
                    return 0.0
                self._stream, self._interrupted = stream, False
            try:
                return self._read(stream, lasts)
            finally:
                with self._mutex:
                    self._stream = None

    def _read(self, stream: Watching, lasts: float) -> float:
        began = self._clock()
        self._trouble = None
        self._failures.works()
        said = silent = cut = False
        try:
            for events in stream.batches():
                self._take(events)
                self._heard()
                said = True
                if self._list_is_due():
                    return 0.0
        except ClusterError as error:
            if self._interrupted:
                return 0.0
            silent = error.code == SILENT
            lasted = self._clock() - began
            cut = not silent and not error.status and (said or lasted >= _STEADY_SECONDS)
            if error.status or error.code == _OUTDATED:
                # It can't go on from here: mostly because the version is too old.
                self._list_soon()
            if not (silent or cut):
                if lasted >= _STEADY_SECONDS:
                    self._settled()
                raise
        lasted = self._clock() - began
        if not said and lasted >= _STEADY_SECONDS:
            self._heard_nothing(silent)
        elif not (said or silent) and lasted < min(_STEADY_SECONDS, lasts / 2):
            # A server that ends each stream at once is not to be asked without a pause.
            raise ClusterError(f"{self._resource}: the watch ended at once")
        if cut:
            # A stream that worked was cut: that is no trouble, if the next one can be had.
            return self._some_seconds()
        return _RESUME_SECONDS if lasted >= 1.0 else 1.0

    def _heard_nothing(self, silent: bool) -> None:
        """A stream lasted, and nothing came on it: it works, as far as one can see."""
        doubt = self._doubt
        self._settled()
        if silent:
            # So this server sends no bookmarks while nothing happens: don't ask it as often.
            self._patience = min(
                2 * self._patience, max(self._silence_seconds, 1.25 * self._watch_seconds)
            )
        if doubt:
            # It was away and may have come back with a database from before our version: then it
            # would say nothing for ever.
            self._list_soon()

    def _settled(self) -> None:
        self._failures.settled()
        self._expiries = 0

    def _heard(self) -> None:
        self._settled()
        self._doubt = False
        self._patience = self._silence_seconds

    def _take(self, events: list[Object]) -> None:
        """Take in events that came together."""
        changed = False
        for event in events:
            thing = event["object"]
            version = str(thing["metadata"]["resourceVersion"])
            if is_older(version, self._version):
                self._list_soon()
                what = f"{self._resource}: an event from before what is known"
                raise ClusterError(what, code=_OUTDATED)
            if event["type"] in ("ADDED", "MODIFIED"):
                key = _key(thing)
                kept = self._kept(key, thing)
                if kept is not None:
                    changed |= self._known.put(key, kept)
            elif event["type"] == "DELETED":
                changed |= self._known.drop(_key(thing), self._clock())
            # Last: who resumes from here has everything up to here.
            self._version = version
        if changed:
            self._on_change()

    def _kept(self, key: str, thing: Object) -> Object | None:
        """What is kept of an object; of one that can't be read what was known before."""
        try:
            return self._keep(thing)
        except Exception:
            # Whatever is odd about it: one bad object stops no other.
            log.exception("watch.unreadable", resource=str(self._resource), object=key)
            return self._known.get(key)

    # Trouble

    def _failed(self, error: ClusterError) -> float:
        expired = error.status == 410
        if expired:
            self._expiries += 1
            self._list_soon()
        elif not error.status or error.status >= 500:
            self._doubt = True
        tell = not expired or self._expiries > _QUIET_EXPIRIES
        if tell:
            self._trouble = error
        first = self._failures.count == 0
        pause = self._failures.failed(error, tell=tell)
        return pause + (self._some_seconds() if first else 0.0)

    def _interrupt(self) -> None:
        self._interrupted = True
        if self._stream is not None:
            self._stream.stop()

    def _some_seconds(self) -> float:
        return random.uniform(0.0, self._spread_seconds)  # noqa: S311 - no secret depends on it


def is_older(version: str, than: str) -> bool:
    """Whether a resource version is surely older than another: both are such as can be compared,
    decimal numbers without leading zeros."""
    if not (_is_comparable(version) and _is_comparable(than)):
        return False
    return (len(version), version) < (len(than), than)


def _is_comparable(version: str) -> bool:
    return version.isascii() and version.isdecimal() and version[0] != "0"


def _wants_newest(error: ClusterError) -> bool:
    # 504 with these words: the server's cache is behind what was asked for, for three seconds.
    too_large = error.status == 504 and "resource version" in str(error).lower()
    return too_large or error.status == 410 or error.code == _OUTDATED


def _key(thing: Object) -> str:
    metadata = thing["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])
