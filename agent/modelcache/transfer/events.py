"""What happens in a transfer, told as events that progress bars, reports and metrics all read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from modelcache.errors import Reason


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
    """Bytes came from the origin and were written. May be taken back: see `BytesDropped`."""

    model: str
    origin: str
    size: int


@dataclass(frozen=True, slots=True)
class BytesResumed:
    """Bytes that an earlier run had fetched of a file are taken up."""

    model: str
    size: int


@dataclass(frozen=True, slots=True)
class BytesLeft:
    """Bytes of a file that is let go of, for another model that waits for the same content."""

    model: str
    size: int


@dataclass(frozen=True, slots=True)
class BytesDropped:
    """Bytes that were counted turned out to be wrong, and are thrown away."""

    model: str
    size: int


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
class Committing:
    """All bytes are there; the views are being built."""

    model: str


@dataclass(frozen=True, slots=True)
class FetchEnded:
    """A fetch is over: `reason` is None when the model is ready. `received` are bytes."""

    model: str
    origin: str
    seconds: float
    received: int
    reason: Reason | None


Event = (
    FetchStarted
    | BytesReceived
    | BytesResumed
    | BytesLeft
    | BytesDropped
    | FileFinished
    | Unpacking
    | BytesUnpacked
    | Retried
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
