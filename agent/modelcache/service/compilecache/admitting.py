"""Whether what a pod brings may come in: before a byte of it comes, and before it is signed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from modelcache.api import CompileCache
from modelcache.cluster.callers import Caller
from modelcache.compilecache.bundles.signing import SigningKey
from modelcache.compilecache.keys.parts import Key
from modelcache.compilecache.pods.protocol import MOST_FILES, CaptureAnswer, CaptureDocument
from modelcache.compilecache.starts.holding import Holding
from modelcache.compilecache.trees.scanning import Limits as TreeLimits
from modelcache.errors import UsageError
from modelcache.service.compilecache.door import Door, Refused
from modelcache.service.compilecache.needs import Asked
from modelcache.service.compilecache.outbox import Outbox

UNPACKED_TIMES: Final = 4
"""A bundle may have so many times its archive's limit in it."""
_MOST_OUTGOING: Final = 4
"""Bundles of one object that wait for their place: one that is away fills no disk."""
_MOST_HELD: Final = 16
"""Bundles of one object on this node. What is of no use any more goes after some minutes."""


def bundle_limits(max_bytes: int) -> TreeLimits:
    """What is taken of bundles, from pods and from places. `max_bytes`: of an archive."""
    return TreeLimits(files=MOST_FILES, bytes=UNPACKED_TIMES * max_bytes)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A capture that may come: nothing of it was read yet."""

    name: str
    key: Key
    capture: CaptureDocument
    caller: Caller

    @property
    def size(self) -> int:
        """Bytes of the archive."""
        return self.capture.archive.size


@dataclass(frozen=True, slots=True)
class Leave:
    """What has come may be signed.

    Attributes:
        signing_key: by which.
        after: when the bundle was made that this one replaces; None: there is none.
    """

    signing_key: SigningKey
    after: datetime | None


class Admitting:
    """Says what may come in. Safe for threads."""

    def __init__(self, door: Door, *, holding: Holding, outbox: Outbox, max_bytes: int) -> None:
        """`max_bytes` of an archive."""
        self._door = door
        self._holding = holding
        self._outbox = outbox
        self._max_bytes = max_bytes

    def admit(
        self, name: str, digest: str, caller: Caller, header: str, length: int | None
    ) -> Ticket | CaptureAnswer:
        """Whether a capture may come; or what is known instead.

        Args:
            name: the CompileCache.
            digest: of the archive, as the path has it.
            caller: who brings it.
            header: the CaptureDocument's.
            length: bytes that are to come; None: not said.

        Raises:
            Refused
        """
        asked = self._door.wanted(name)
        _check_publisher(caller, asked.cache)
        self._signing_key()
        capture = self._capture(header, digest, length)
        self._check_origin(caller, asked, capture)
        key = _key(asked)
        known = self._first(name, capture)
        if isinstance(known, CaptureAnswer):
            return known
        self._check_room(name)
        return Ticket(name, key, capture, caller)

    def admit_again(self, ticket: Ticket) -> Leave | CaptureAnswer:
        """Whether what has come may be signed. An upload takes time: what is signed is what may be
        signed now, by the key of now, and who was first meanwhile was first.

        Raises:
            Refused
        """
        asked = self._door.wanted(ticket.name)
        _check_publisher(ticket.caller, asked.cache)
        if _key(asked) != ticket.key:
            raise Refused(409, "KeyChanged", "the object, or this node's key, has changed")
        signing_key = self._signing_key()
        known = self._first(ticket.name, ticket.capture)
        return known if isinstance(known, CaptureAnswer) else Leave(signing_key, known)

    def _signing_key(self) -> SigningKey:
        found = self._door.signing_key()
        if found is None:
            raise Refused(
                403, "NoSigningKey", "this node's agent has no signing key (--signing-key)"
            )
        return found

    def _first(self, name: str, capture: CaptureDocument) -> CaptureAnswer | datetime | None:
        """The answer where somebody was first; else when the bundle was made that is replaced."""
        best = self._door.best(name)
        if best is None or best.statement is None:
            return None
        statement = best.statement
        # With the whole of it, or with what has grown since the seed.
        if capture.archive.digest == statement.archive.digest or (
            capture.seeded != statement.digest
        ):
            return CaptureAnswer(
                digest=statement.digest, known=True, message="there is a bundle already"
            )
        return statement.created_at

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


def _key(asked: Asked) -> Key:
    """This node's key, which may not be known for a moment: that is no other one."""
    if asked.key is None:
        why = asked.why or "this node's key is not known yet"
        raise Refused(503, "KeyUnknown", why, retry_after=30)
    return asked.key


def _check_publisher(caller: Caller, cache: CompileCache) -> None:
    who = caller.namespace, caller.service_account
    if who not in [(p.namespace, p.service_account) for p in cache.spec.publishers]:
        raise Refused(
            403,
            "NotAPublisher",
            f"{caller.namespace}/{caller.service_account} is not among the publishers of"
            f" {cache.name}: its object's spec.publishers says who is",
        )
