"""What can go wrong on the way of a file's bytes, one small class for each way."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from tests.support.hub.content import Content


@dataclass(frozen=True)
class Span:
    """The bytes ``[start, end)`` that an answer gives out; ``partial`` when a range was asked."""

    start: int
    end: int
    partial: bool

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong ``times`` times (``None``: for ever).

    A fault is spent only by a request that it can touch (see `touches`); a request that the first
    one in the queue cannot touch gets the next one that can.
    """

    times: int | None = field(default=1, kw_only=True)

    def touches(self, span: Span) -> bool:
        """Whether an answer with these bytes would look different for this fault."""
        return True


@dataclass(frozen=True)
class FlipBit(Fault):
    """One bit of the byte at ``offset`` of the file is wrong; nothing in the headers says so."""

    offset: int
    bit: int = 0

    def touches(self, span: Span) -> bool:
        return span.start <= self.offset < span.end


@dataclass(frozen=True)
class ShortBody(Fault):
    """Right headers, then the connection is closed (FIN) after ``after`` bytes of the body."""

    after: int

    def touches(self, span: Span) -> bool:
        return self.after < span.length


@dataclass(frozen=True)
class WrongLength(Fault):
    """The file is ``delta`` bytes longer (zeros at its end) or shorter than it should be.

    Content-Length, the total in Content-Range and the body agree with each other, so only a client
    that knows the size from the listing can tell.
    """

    delta: int


@dataclass(frozen=True)
class WrongContentRange(Fault):
    """A 206 with the right bytes whose Content-Range says they lie ``shift`` bytes further on."""

    shift: int

    def touches(self, span: Span) -> bool:
        return span.partial


@dataclass(frozen=True)
class IgnoreRange(Fault):
    """A request with a range is answered 200 with the whole file."""

    def touches(self, span: Span) -> bool:
        return span.partial


@dataclass(frozen=True)
class Status(Fault):
    """Another status instead of the file; ``retry_after`` is in seconds, or an HTTP date."""

    code: int
    retry_after: int | str | None = None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stall(Fault):
    """Nothing comes after ``after`` bytes of the body, while the connection stays open.

    ``until`` ends it: an event or a number of seconds, after which the rest follows. It also ends
    when the client closes the connection, and when the server stops.
    """

    after: int = 0
    until: threading.Event | float | None = None

    def touches(self, span: Span) -> bool:
        return self.after < span.length


@dataclass(frozen=True)
class Trickle(Fault):
    """This one body comes at ``bytes_per_second``, whatever the server's own rate is."""

    bytes_per_second: float


@dataclass(frozen=True)
class Reset(Fault):
    """The connection is reset (RST) after ``after`` bytes of the body reached the client."""

    after: int = 0

    def touches(self, span: Span) -> bool:
        return self.after < span.length


@dataclass(frozen=True)
class Replace(Fault):
    """From now on the URL holds other content with another ETag; the listing keeps the old one.

    It is a state, not an answer: it lasts until `clear_faults` (or for ``times`` bodies), and
    other faults act on the replaced content.
    """

    content: Content
    times: int | None = field(default=None, kw_only=True)


ApiFault = Status | Stall | Reset


@dataclass
class _Queued:
    pattern: str
    fault: Fault
    left: int | None

    def take(self) -> None:
        if self.left is not None:
            self.left -= 1


class FaultBook:
    """The queue of faults for files and the one for API requests; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: list[_Queued] = []
        self._api: list[_Queued] = []

    def add(self, pattern: str, fault: Fault) -> None:
        """Queue ``fault`` for the files that match ``pattern``."""
        with self._lock:
            self._files.append(_Queued(pattern, fault, fault.times))

    def add_api(self, pattern: str, fault: ApiFault) -> None:
        """Queue ``fault`` for the API requests whose URL path matches ``pattern``."""
        with self._lock:
            self._api.append(_Queued(pattern, fault, fault.times))

    def clear(self) -> None:
        with self._lock:
            self._files.clear()
            self._api.clear()

    def replacement(self, repo: str, path: str, *, take: bool) -> Content | None:
        """The content now at this path, when it was replaced; the newest replacement counts."""
        with self._lock:
            for queued in reversed(self._live(self._files)):
                if isinstance(queued.fault, Replace) and _matches(queued.pattern, repo, path):
                    if take:
                        queued.take()
                    return queued.fault.content
        return None

    def for_body(self, repo: str, path: str, span: Span) -> Fault | None:
        """Take the fault for an answer that gives out ``span`` of this file."""
        with self._lock:
            for queued in self._live(self._files):
                fault = queued.fault
                if isinstance(fault, Replace) or not _matches(queued.pattern, repo, path):
                    continue
                if fault.touches(span):
                    queued.take()
                    return fault
        return None

    def for_api(self, url_path: str) -> Fault | None:
        """Take the fault for an API request."""
        with self._lock:
            for queued in self._live(self._api):
                if fnmatchcase(url_path, queued.pattern):
                    queued.take()
                    return queued.fault
        return None

    @staticmethod
    def _live(queue: list[_Queued]) -> list[_Queued]:
        queue[:] = [queued for queued in queue if queued.left != 0]
        return queue


def _matches(pattern: str, repo: str, path: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(f"{repo}/{path}", pattern)
