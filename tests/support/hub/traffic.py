"""What went over the wire, and how fast it may."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

ServerName = Literal["hub", "cdn"]


@dataclass
class Request:
    """One request as a server saw it; those in flight are in the log too.

    ``path`` is as sent, with its query. ``repo_path`` is the file meant, when one is. ``headers``
    have lower-case names. ``status`` is 0 until an answer begins, and stays 0 when none did.
    ``bytes_sent`` counts the bytes of a file's body, and nothing else, that were handed to the
    kernel or are just being handed (at most 2 MiB), so that no client has more than this says.
    ``length`` is what the answer's head says of its body. ``finished`` turns true when the server
    is done with the request, well or not.
    """

    time: float
    server: ServerName
    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    range: str | None
    repo: str | None = None
    repo_path: str | None = None
    status: int = 0
    length: int = 0
    bytes_sent: int = 0
    finished: bool = False


class RequestLog:
    """Every request so far, in the order in which they came in."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests: list[Request] = []
        self._bodies: dict[ServerName, set[int]] = {"hub": set(), "cdn": set()}
        self._most: dict[ServerName, int] = {"hub": 0, "cdn": 0}

    def open(self, request: Request) -> None:
        """Note a request that has just come in."""
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()

    def note(
        self,
        request: Request,
        *,
        repo: str | None = None,
        repo_path: str | None = None,
        status: int | None = None,
        length: int | None = None,
        sent: int = 0,
        finished: bool = False,
    ) -> None:
        """Note what has become known of a request; ``sent`` adds up."""
        with self._changed:
            request.repo = repo or request.repo
            request.repo_path = repo_path or request.repo_path
            request.status = status or request.status
            request.length = length or request.length
            request.bytes_sent += sent
            request.finished = request.finished or finished
            bodies = self._bodies[request.server]
            if 0 < request.bytes_sent < request.length and not request.finished:
                bodies.add(id(request))
            else:
                bodies.discard(id(request))
            self._most[request.server] = max(self._most[request.server], len(bodies))
            self._changed.notify_all()

    def snapshot(self) -> list[Request]:
        with self._changed:
            return [replace(request) for request in self._requests]

    def most_at_once(self, server: ServerName) -> int:
        """How many bodies of files a server was sending at the same time, at most, since it was
        last asked. A body is done before its last piece is sent, so that no client can have its
        next request counted beside it."""
        with self._changed:
            most, self._most[server] = self._most[server], len(self._bodies[server])
            return most

    def clear(self) -> None:
        """Forget the past; a request in flight is forgotten too."""
        with self._changed:
            self._requests.clear()

    def bytes_sent(self, pattern: str) -> int:
        """Bytes of file bodies, for the files that match."""
        with self._changed:
            return sum(
                request.bytes_sent
                for request in self._requests
                if request.repo_path is not None
                and (
                    fnmatchcase(request.repo_path, pattern)
                    or fnmatchcase(f"{request.repo}/{request.repo_path}", pattern)
                )
            )

    def wait_until(self, predicate: Callable[[list[Request]], bool], timeout: float) -> bool:
        """Wait until the snapshot satisfies ``predicate``; False after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not predicate([replace(request) for request in self._requests]):
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return predicate([replace(request) for request in self._requests])
        return True


class Throttle:
    """A rate in bytes per second that several senders share; None is no limit."""

    SLICE_SECONDS = 0.05

    def __init__(self, rate: float | None = None) -> None:
        self._lock = threading.Lock()
        self._rate = rate
        self._free_at = 0.0

    def set(self, rate: float | None) -> None:
        """Change the rate; it holds from the next slice on, for bodies under way too."""
        if rate is not None and rate <= 0:
            raise ValueError("a rate must be positive; Stall is what sends nothing")
        with self._lock:
            self._rate = rate
            self._free_at = 0.0

    def slice_size(self, most: int) -> int:
        """How many bytes to send before asking again, at most ``most``."""
        rate = self._rate
        return most if rate is None else max(1, min(most, int(rate * self.SLICE_SECONDS)))

    def take(self, count: int, stop: threading.Event) -> None:
        """Wait for the turn of ``count`` bytes, or for ``stop``."""
        with self._lock:
            if self._rate is None:
                return
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + count / self._rate
            delay = self._free_at - now
        stop.wait(delay)
