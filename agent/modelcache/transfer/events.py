"""What happens in a transfer, told as events that progress bars, reports and metrics all read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from modelcache.errors import Reason
from modelcache.transfer.spending import Times


@dataclass(frozen=True, slots=True)
class Resolving:
    """An origin begins to be asked what a model's revision is."""

    model: str
    origin: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """It was asked: `reason` is None where it said `revision`."""

    model: str
    origin: str
    seconds: float
    revision: str | None = None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class FetchStarted:
    """A fetch of a revision begins. `held` of its `size` bytes are on the disk already."""

    model: str
    revision: str
    origin: str
    files: int
    size: int
    held: int


@dataclass(frozen=True, slots=True)
class BytesReceived:
    """Bytes came from the origin and were written. May be taken back: see `BytesDropped`.

    `mirror` is the URL of the mirror that served them; None: the origin did.
    """

    model: str
    origin: str
    size: int
    path: str = ""
    mirror: str | None = None


@dataclass(frozen=True, slots=True)
class BytesResumed:
    """Bytes that an earlier run had fetched of a file are taken up."""

    model: str
    size: int


@dataclass(frozen=True, slots=True)
class BytesSalvaged:
    """Bytes of a file that had gone bad are good still, and not fetched again.

    They are told of again as resumed, when the file's fetch takes them up.
    """

    model: str
    size: int
    path: str


@dataclass(frozen=True, slots=True)
class BytesLeft:
    """Bytes of a file that is let go of, for another model that waits for the same content."""

    model: str
    size: int
    path: str = ""


@dataclass(frozen=True, slots=True)
class BytesDropped:
    """Bytes that were counted turned out to be wrong, and are thrown away."""

    model: str
    size: int
    path: str = ""


@dataclass(frozen=True, slots=True)
class FileStarted:
    """A file begins to be fetched. `held` of its `size` bytes are on the disk already."""

    model: str
    path: str
    size: int
    held: int


@dataclass(frozen=True, slots=True)
class FileFinished:
    """A file is verified, durable, and has its name in the store."""

    model: str
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Unpacking:
    """All bytes are there; archives of `size` bytes are being unpacked."""

    model: str
    size: int


@dataclass(frozen=True, slots=True)
class BytesUnpacked:
    """So many bytes of the archives were read."""

    model: str
    size: int


@dataclass(frozen=True, slots=True)
class Retried:
    """Something failed and is tried again in `delay` seconds."""

    model: str
    origin: str
    path: str
    reason: Reason
    message: str
    delay: float


@dataclass(frozen=True, slots=True)
class MirrorFailed:
    """A mirror gave nothing that is of use, and the origin is asked instead.

    For `pause` seconds nobody asks it; 0: it is only this file.
    """

    model: str
    origin: str
    path: str
    mirror: str
    reason: Reason
    message: str
    pause: float


@dataclass(frozen=True, slots=True)
class HostPaused:
    """A host asks for fewer requests: it gets none for `seconds`, and then fewer connections.

    `reason` is why it was asked for, and `status` HTTP's, where it is known.
    """

    model: str
    origin: str
    host: str
    seconds: float
    connections: int
    status: int | None = None
    reason: Reason = Reason.RATE_LIMITED


@dataclass(frozen=True, slots=True)
class Committing:
    """All bytes are there; the views are being built."""

    model: str


@dataclass(frozen=True, slots=True)
class FetchEnded:
    """A fetch is over: `reason` is None when the model is ready.

    `received` are bytes, `mirrored` those of them that mirrors served. `times` are what its
    connections spent their time on. `at` is when a model became whole, as its manifest has it, in
    seconds since the epoch; None: it has none.
    """

    model: str
    origin: str
    seconds: float
    received: int
    reason: Reason | None
    mirrored: int = 0
    retries: int = 0
    times: Times = field(default_factory=Times)
    at: float | None = None


Event = (
    Resolving
    | Resolved
    | FetchStarted
    | BytesReceived
    | BytesResumed
    | BytesSalvaged
    | BytesLeft
    | BytesDropped
    | FileStarted
    | FileFinished
    | Unpacking
    | BytesUnpacked
    | Retried
    | MirrorFailed
    | HostPaused
    | Committing
    | FetchEnded
)
Listener = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """Listen to nothing."""


def fan_out(*listeners: Listener) -> Listener:
    """One listener that tells several."""

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell
