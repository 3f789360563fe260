"""What pods bring: a capture becomes a signed bundle of this node, if who brings it may.

Everything that can be refused is refused before a byte of the archive comes. Then it is received to
a place that nobody sees, digested on the way, scanned as whoever unpacks it will (`bundles.
unpacking`), signed, and put among this node's bundles together with the note that it is to be
published. What crashes in between leaves nothing that anybody would seed from.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

import structlog

from modelcache import __version__
from modelcache.api import CompileCache
from modelcache.cluster.callers import Caller
from modelcache.compilecache.bundles.local import ENVELOPE_NAME, archive_name
from modelcache.compilecache.bundles.signing import SigningKey, envelope_bytes
from modelcache.compilecache.bundles.statement import Producer, Statement
from modelcache.compilecache.bundles.unpacking import check
from modelcache.compilecache.keys.parts import Key
from modelcache.compilecache.pods.protocol import (
    MOST_FILES,
    CaptureAnswer,
    CaptureDocument,
    StartDocument,
)
from modelcache.compilecache.starts.holding import Holding
from modelcache.compilecache.trees.scanning import Limits as TreeLimits
from modelcache.errors import (
    BrokenBundle,
    InsufficientDisk,
    UsageError,
)
from modelcache.service.compilecache.door import Door, Refused
from modelcache.service.compilecache.metrics import CompileMetrics
from modelcache.service.compilecache.needs import Asked
from modelcache.service.compilecache.outbox import Outbox
from modelcache.service.compilecache.starts import StartBook
from modelcache.store.reservations import Space
from modelcache.transfer import Cancel

log = structlog.get_logger(__name__)

UNPACKED_TIMES: Final = 4
"""A bundle may have so many times its archive's limit in it."""
_MOST_OUTGOING: Final = 4
"""Bundles of one object that wait for their place: one that is away fills no disk."""
_MOST_HELD: Final = 16
"""Bundles of one object on this node. What is of no use any more goes after some minutes."""
_MOST_UPLOADS: Final = 2
_MOST_STARTS: Final = 8
_STARTS_SECONDS: Final = 60.0
"""A pod starts once, and again when it crashes: each is written to disk and told the cluster."""
_MOST_PODS: Final = 1024
_PART_BYTES: Final = 1024 * 1024


def bundle_limits(max_bytes: int) -> TreeLimits:
    """What is taken of bundles, from pods and from places. `max_bytes`: of an archive."""
    return TreeLimits(files=MOST_FILES, bytes=UNPACKED_TIMES * max_bytes)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A capture that may come: nothing of it was read yet."""

    name: str
    cache: CompileCache
    key: Key
    capture: CaptureDocument
    caller: Caller
    signing_key: SigningKey
    after: datetime | None
    """When the bundle was made that this one replaces."""

    @property
    def size(self) -> int:
        """Bytes of the archive."""
        return self.capture.archive.size


class Receiving:
    """Answers pods. Safe for threads."""

    def __init__(
        self,
        door: Door,
        *,
        holding: Holding,
        outbox: Outbox,
        starts: StartBook,
        space: Space,
        max_bytes: int,
        cancel: Cancel,
        on_change: Callable[[], None],
        metrics: CompileMetrics,
    ) -> None:
        """`max_bytes` of an archive; `on_change` is called when there is a new bundle."""
        self._door = door
        self._holding = holding
        self._outbox = outbox
        self._starts = starts
        self._space = space
        self._max_bytes = max_bytes
        self._cancel = cancel
        self._on_change = on_change
        self._metrics = metrics
        self._room = threading.BoundedSemaphore(_MOST_UPLOADS)
        self._mutex = threading.Lock()
        self._receiving: set[str] = set()
        self._told: OrderedDict[str, list[float]] = OrderedDict()

    def refused(self, refusal: Refused) -> None:
        """Count what was refused."""
        self._metrics.refused(refusal.word)

    def claimed(self, token: str) -> str:
        """The uid of the pod of this node that a token says it is for; see `Door.claimed`."""
        return self._door.claimed(token)

    # Bundles

    def admit(
        self, name: str, digest: str, token: str, header: str, length: int | None
    ) -> Ticket | CaptureAnswer:
        """Whether a capture may come; or what is known instead.

        Args:
            name: the CompileCache.
            digest: of the archive, as the path has it.
            token: the caller's.
            header: the CaptureDocument's.
            length: bytes that are to come; None: not said.

        Raises:
            Refused
        """
        caller, _ = self._door.caller(token)
        with _asked_by(caller):
            return self._admitted(name, digest, caller, header, length)

    def _admitted(
        self, name: str, digest: str, caller: Caller, header: str, length: int | None
    ) -> Ticket | CaptureAnswer:
        asked = self._door.wanted(name)
        _check_publisher(caller, asked.cache)
        signing_key = self._door.signing_key()
        if signing_key is None:
            raise Refused(
                403, "NoSigningKey", "this node's agent has no signing key (--signing-key)"
            )
        capture = self._capture(header, digest, length)
        self._check_origin(caller, asked, capture)
        if asked.key is None:
            why = asked.why or "this node's key is not known yet"
            raise Refused(503, "KeyUnknown", why, retry_after=30)
        best = self._door.best(name)
        if best is not None and best.statement is not None:
            statement = best.statement
            same = statement.archive.digest == digest
            # Somebody was first: with the whole of it, or with what has grown since the seed.
            if same or capture.seeded != statement.digest:
                return CaptureAnswer(
                    digest=statement.digest, known=True, message="there is a bundle already"
                )
        self._check_room(name)
        after = best.statement.created_at if best and best.statement else None
        return Ticket(name, asked.cache, asked.key, capture, caller, signing_key, after)

    def take(self, ticket: Ticket, read: Callable[[int], bytes]) -> CaptureAnswer:
        """Receive, scan, sign and keep.

        Args:
            ticket: from `admit`.
            read: gives at most so many bytes of the archive; none at its end.

        Raises:
            Refused
            OSError: what reading raises, or the disk.
        """
        with _asked_by(ticket.caller), self._turn(ticket.name):
            try:
                with (
                    self._space.reserve(ticket.size, files=2, what=f"a bundle of {ticket.name}"),
                    self._holding.staging() as staging,
                ):
                    return self._take(ticket, read, staging)
            except InsufficientDisk as error:
                raise Refused(503, "InsufficientDisk", str(error), retry_after=300) from error

    def _check_room(self, name: str) -> None:
        """A publisher that brings one after the other fills no disk."""
        outgoing, held = len(self._outbox.of(name)), len(self._holding.of(name))
        if outgoing >= _MOST_OUTGOING or held >= _MOST_HELD:
            raise Refused(
                503,
                "TooMany",
                f"{held} bundles of {name} are on this node, {outgoing} of which are not at their"
                " place yet: later",
                retry_after=300,
            )

    def _check_again(self, ticket: Ticket) -> None:
        """An upload takes time: what is signed is what may be signed now."""
        asked = self._door.wanted(ticket.name)
        _check_publisher(ticket.caller, asked.cache)
        if asked.key != ticket.key:
            raise Refused(409, "KeyChanged", "the object, or this node's key, has changed")

    def _take(self, ticket: Ticket, read: Callable[[int], bytes], staging: Path) -> CaptureAnswer:
        archive = staging / archive_name(ticket.capture.archive)
        _receive(ticket, read, archive)
        self._check_again(ticket)
        statement = self._statement(ticket)
        try:
            envelope = envelope_bytes(ticket.signing_key.sign(statement))
            check(archive, statement, limits=bundle_limits(self._max_bytes), cancel=self._cancel)
        except BrokenBundle as error:
            log.warning(
                "bundle.refused",
                compile_cache=ticket.name,
                caller=str(ticket.caller),
                message=str(error),
            )
            raise Refused(422, "Unsafe", str(error)) from error
        (staging / ENVELOPE_NAME).write_bytes(envelope)
        # First the note: a bundle without one would never be published.
        self._outbox.put(ticket.name, statement.digest)
        self._holding.add(staging, ticket.name, ticket.key.digest, statement.digest)
        log.info(
            "bundle.received",
            compile_cache=ticket.name,
            digest=statement.digest,
            bytes=ticket.size,
            caller=str(ticket.caller),
        )
        self._metrics.received(ticket.name, ticket.size)
        self._on_change()
        return CaptureAnswer(digest=statement.digest)

    def _statement(self, ticket: Ticket) -> Statement:
        now = datetime.now(UTC).replace(microsecond=0)
        if ticket.after is not None:
            # The newest is seeded from: not before the one that it grew from, whatever the clocks
            # of two nodes say.
            now = max(now, ticket.after + timedelta(seconds=1))
        caller, capture = ticket.caller, ticket.capture
        return Statement(
            name=ticket.name,
            key=ticket.key,
            archive=capture.archive,
            engine_hashes=capture.engine_hashes,
            producer=Producer(
                version=__version__,
                node=self._door.node,
                pod=f"{caller.namespace}/{caller.pod}",
                service_account=f"{caller.namespace}/{caller.service_account}",
            ),
            evidence=capture.evidence,
            created_at=now,
        )

    def _capture(self, header: str, digest: str, length: int | None) -> CaptureDocument:
        try:
            capture = CaptureDocument.from_header(header)
        except UsageError as error:
            raise Refused(400, "Malformed", str(error)) from error
        archive = capture.archive
        if archive.digest != digest:
            raise Refused(400, "Malformed", "the path and the capture name different archives")
        if length is None:
            raise Refused(411, "LengthRequired", "say how long the archive is (Content-Length)")
        if length != archive.size:
            raise Refused(400, "Malformed", f"the archive has {archive.size} bytes, not {length}")
        if length > self._max_bytes or archive.bytes > UNPACKED_TIMES * self._max_bytes:
            raise Refused(
                413,
                "TooLarge",
                f"{length} bytes, {archive.bytes} unpacked, are more than --max-bundle-size allows"
                f" ({self._max_bytes}, {UNPACKED_TIMES} times as much unpacked)",
            )
        if archive.files > MOST_FILES:
            raise Refused(
                413, "TooLarge", f"{archive.files} files are more than {MOST_FILES}, the most here"
            )
        evidence = capture.evidence
        if evidence.load_failures or evidence.save_failures:
            raise Refused(422, "LoadFailed", "the start could not load or save all of its cache")
        if evidence.loaded and not evidence.compiled:
            raise Refused(422, "OnlyLoaded", "the start has compiled nothing")
        return capture

    def _check_origin(self, caller: Caller, asked: Asked, capture: CaptureDocument) -> None:
        """That it was captured from the engine that the object describes."""
        engine = asked.cache.spec.engine
        if capture.cache_dir != engine.cache_dir:
            raise Refused(
                409,
                "OtherDirectory",
                f"it was captured below {capture.cache_dir}, and the object says"
                f" {engine.cache_dir}: engines note absolute paths",
            )
        pod = self._door.pod(caller.namespace, caller.pod) or {}
        image = engine.image.rpartition("@")[2]
        if image not in pod.get("images", ()):
            raise Refused(
                409,
                "OtherImage",
                f"no container of the pod has the image {engine.image} of the object",
            )

    @contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """One upload at a time for an object, and few in all."""
        with self._mutex:
            if name in self._receiving or not self._room.acquire(blocking=False):
                raise Refused(503, "Busy", "others bring bundles at this moment", retry_after=15)
            self._receiving.add(name)
        try:
            yield
        finally:
            with self._mutex:
                self._receiving.discard(name)
                self._room.release()

    # Starts

    def start(self, name: str, token: str, body: bytes) -> None:
        """Note how a start went.

        Raises:
            Refused
        """
        caller, pod = self._door.caller(token)
        with _asked_by(caller):
            asked = self._door.wanted(name)
            if pod.get("compile") != name:
                raise Refused(
                    403, "OtherCache", f"the pod doesn't ask for the compile cache {name}"
                )
            self._check_pace(caller.pod_uid)
            try:
                start = StartDocument.read(body)
                blames = caller.namespace in {p.namespace for p in asked.cache.spec.publishers}
                self._starts.note(name, start, caller.pod_uid, blames=blames)
            except UsageError as error:
                raise Refused(400, "Malformed", str(error)) from error
            except InsufficientDisk as error:
                raise Refused(503, "InsufficientDisk", str(error), retry_after=300) from error
        self._metrics.started(name, start, self._cold_seconds(name, start.digest))

    def _check_pace(self, pod_uid: str) -> None:
        with self._mutex:
            now = time.monotonic()
            recent = [at for at in self._told.pop(pod_uid, ()) if now - at < _STARTS_SECONDS]
            full = len(recent) >= _MOST_STARTS
            self._told[pod_uid] = recent if full else [*recent, now]
            while len(self._told) > _MOST_PODS:
                self._told.popitem(last=False)
        if full:
            why = f"the pod has told of {_MOST_STARTS} starts in a minute: later"
            raise Refused(429, "Busy", why, retry_after=int(_STARTS_SECONDS))

    def _cold_seconds(self, name: str, digest: str | None) -> float | None:
        best = self._door.best(name)
        if best is None or best.statement is None or best.statement.digest != digest:
            return None
        return best.statement.evidence.compile_seconds


@contextmanager
def _asked_by(caller: Caller) -> Iterator[None]:
    """Who asked, for whoever tells of a refusal."""
    try:
        yield
    except Refused as refused:
        refused.caller = str(caller)
        raise


def _check_publisher(caller: Caller, cache: CompileCache) -> None:
    who = caller.namespace, caller.service_account
    if who not in [(p.namespace, p.service_account) for p in cache.spec.publishers]:
        raise Refused(
            403,
            "NotAPublisher",
            f"{caller.namespace}/{caller.service_account} is not among the publishers of"
            f" {cache.name}: its object's spec.publishers says who is",
        )


def _receive(ticket: Ticket, read: Callable[[int], bytes], archive: Path) -> None:
    """Write what comes, and nothing beyond what was announced."""
    hashing, left = sha256(), ticket.size
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(archive, flags, 0o600), "wb") as file:
        while left:
            part = read(min(left, _PART_BYTES))
            if not part:
                raise Refused(400, "Incomplete", f"the archive ended {left} bytes too early")
            hashing.update(part)
            file.write(part)
            left -= len(part)
    found = f"sha256:{hashing.hexdigest()}"
    if found != ticket.capture.archive.digest:
        raise Refused(
            422, "ChecksumMismatch", f"what came is {found}, not {ticket.capture.archive.digest}"
        )
