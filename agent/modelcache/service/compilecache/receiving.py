"""What pods bring: a capture becomes a signed bundle of this node, if who brings it may.

Everything that can be refused is refused before a byte of the archive comes. Then it is received to
a place that nobody sees, digested on the way, scanned as whoever unpacks it will (`bundles.
unpacking`), admitted once more (`admitting`), signed, and put among this node's bundles together
with the note that it is to be published. What crashes in between leaves nothing that anybody would
seed from.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

import structlog

from modelcache import __version__
from modelcache.cluster.callers import Caller
from modelcache.compilecache.bundles.local import ENVELOPE_NAME, archive_name
from modelcache.compilecache.bundles.signing import envelope_bytes
from modelcache.compilecache.bundles.statement import Producer, Statement
from modelcache.compilecache.bundles.unpacking import check
from modelcache.compilecache.pods.protocol import (
    CaptureAnswer,
    StartDocument,
)
from modelcache.compilecache.starts.holding import Holding
from modelcache.errors import (
    BrokenBundle,
    InsufficientDisk,
    UsageError,
)
from modelcache.metrics import CompileMetrics
from modelcache.service.compilecache.admitting import Admitting, Ticket, bundle_limits
from modelcache.service.compilecache.door import Door, Refused
from modelcache.service.compilecache.outbox import Outbox
from modelcache.service.compilecache.pacing import Pace
from modelcache.service.compilecache.starts import StartBook
from modelcache.store.space import Space
from modelcache.transfer import Cancel

log = structlog.get_logger(__name__)

_MOST_UPLOADS: Final = 2
_MOST_STARTS: Final = 8
_STARTS_SECONDS: Final = 60.0
"""A pod starts once, and again when it crashes: each is written to disk and told the cluster."""
_PART_BYTES: Final = 1024 * 1024


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
        self._admitting = Admitting(door, holding=holding, outbox=outbox, max_bytes=max_bytes)
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
        self._pace = Pace(_MOST_STARTS, _STARTS_SECONDS)

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
            return self._admitting.admit(name, digest, caller, header, length)

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

    def _take(self, ticket: Ticket, read: Callable[[int], bytes], staging: Path) -> CaptureAnswer:
        archive = staging / archive_name(ticket.capture.archive)
        _receive(ticket, read, archive)
        try:
            statement = self._statement(ticket, None)
            check(archive, statement, limits=bundle_limits(self._max_bytes), cancel=self._cancel)
            leave = self._admitting.admit_again(ticket)
            if isinstance(leave, CaptureAnswer):
                return leave
            statement = self._statement(ticket, leave.after)
            envelope = envelope_bytes(leave.signing_key.sign(statement))
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

    def _statement(self, ticket: Ticket, after: datetime | None) -> Statement:
        now = datetime.now(UTC).replace(microsecond=0)
        if after is not None:
            # The newest is seeded from: not before the one that it grew from, whatever the clocks
            # of two nodes say.
            now = max(now, after + timedelta(seconds=1))
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
            if not self._pace.allows(caller.pod_uid):
                why = f"the pod has told of {_MOST_STARTS} starts in a minute: later"
                raise Refused(429, "Busy", why, retry_after=int(_STARTS_SECONDS))
            try:
                start = StartDocument.read(body)
                blames = caller.namespace in {p.namespace for p in asked.cache.spec.publishers}
                self._starts.note(name, start, caller.pod_uid, blames=blames)
            except UsageError as error:
                raise Refused(400, "Malformed", str(error)) from error
            except InsufficientDisk as error:
                raise Refused(503, "InsufficientDisk", str(error), retry_after=300) from error
        self._metrics.started(name, start, self._cold_seconds(name, start.digest))

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
