"""Putting a body on a socket: as fast as it goes, or as badly as a fault wants it."""

from __future__ import annotations

import array
import fcntl
import math
import select
import socket
import struct
import termios
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tests.support.hub.content import Buffer, Content
from tests.support.hub.faults import Fault, FlipBit, Reset, ShortBody, Span, Stall, Trickle
from tests.support.hub.traffic import Throttle

_BATCH = 2 << 20
_MOST_BUFFERS = 64
_HANGUP = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class BrokenConnectionError(Exception):
    """The connection must not be used for another request."""


@dataclass(frozen=True)
class Delivery:
    """One body on its way: where it goes, what slows it, and who counts it."""

    sock: socket.socket
    throttle: Throttle
    stop: threading.Event
    sent: Callable[[int], None]

    def deliver(self, content: Content, span: Span, fault: Fault | None) -> None:
        """Send ``span`` of ``content``.

        Raises `BrokenConnectionError` when the connection is to be closed.
        """
        match fault:
            case FlipBit(offset=offset, bit=bit):
                self._send(_flipped(content, span, offset, bit))
            case Trickle(bytes_per_second=rate):
                self._send(content.read(span.start, span.end), Throttle(rate))
            case ShortBody(after=after):
                self._send(content.read(span.start, span.start + after))
                raise BrokenConnectionError("short body")
            case Reset(after=after):
                self._send(content.read(span.start, span.start + after))
                reset(self.sock, self.stop)
            case Stall(after=after, until=until):
                self._send(content.read(span.start, span.start + after))
                stall(self.sock, self.stop, until)
                self._send(content.read(span.start + after, span.end))
            case _:
                self._send(content.read(span.start, span.end))

    def _send(self, pieces: Iterable[Buffer], own: Throttle | None = None) -> None:
        throttles = [self.throttle, *([own] if own else [])]
        queue: deque[memoryview] = deque()
        source = iter(pieces)
        while True:
            size = min(throttle.slice_size(_BATCH) for throttle in throttles)
            batch, length = _gather(source, queue, size)
            if not batch:
                return
            for throttle in throttles:
                throttle.take(length, self.stop)
            if self.stop.is_set():
                raise BrokenConnectionError("the server stops")
            _put_back(batch, self._count_and_send(batch, length), queue)

    def _count_and_send(self, batch: list[memoryview], length: int) -> int:
        """Send, counting first: a client must never hold bytes that the log does not show yet."""
        self.sent(length)
        count = 0
        try:
            count = self.sock.sendmsg(batch)
        finally:
            if count < length:
                self.sent(count - length)
        return count


def stall(
    sock: socket.socket, stop: threading.Event, until: threading.Event | float | None
) -> None:
    """Hold still until ``until``: an event, or a number of seconds.

    Raises `BrokenConnectionError` when the client hangs up or the server stops before that. A
    server that stops shuts its connections down, and so wakes the poll.
    """
    if isinstance(until, threading.Event):
        event, end = until, math.inf
    else:
        event, end = None, math.inf if until is None else time.monotonic() + until
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    while not stop.is_set():
        left = 0.01 if event else end - time.monotonic()
        if left <= 0 or (event and event.is_set()):
            return
        hung_up = poll.poll(None if left == math.inf else math.ceil(left * 1000))
        if any(events & _HANGUP for _, events in hung_up):
            break
    raise BrokenConnectionError("the client hung up, or the server stops")


def reset(sock: socket.socket, stop: threading.Event) -> None:
    """Make the close that follows a reset; always raises `BrokenConnectionError`.

    With a linger time of 0, close drops what the client's kernel has not acknowledged and sends
    RST. So what was sent is given a moment to arrive, or the number of bytes would be a lottery.
    """
    unsent = array.array("i", [0])
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline and not stop.is_set():
        fcntl.ioctl(sock, termios.TIOCOUTQ, unsent)
        if unsent[0] == 0:
            break
        stop.wait(0.001)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise BrokenConnectionError("reset")


def _gather(
    source: Iterator[Buffer], queue: deque[memoryview], size: int
) -> tuple[list[memoryview], int]:
    """Up to ``size`` bytes for one system call, first from ``queue``, then from ``source``."""
    batch: list[memoryview] = []
    length = 0
    while length < size and len(batch) < _MOST_BUFFERS:
        if not queue:
            piece = next(source, None)
            if piece is None:
                break
            queue.append(memoryview(piece))
        view = queue.popleft()
        take = view[: size - length]
        if len(take) < len(view):
            queue.appendleft(view[len(take) :])
        batch.append(take)
        length += len(take)
    return batch, length


def _put_back(batch: list[memoryview], sent: int, queue: deque[memoryview]) -> None:
    """Return to ``queue`` what the kernel did not take of ``batch``."""
    for view in reversed(batch[_first_unsent(batch, sent) :]):
        queue.appendleft(view)


def _first_unsent(batch: list[memoryview], sent: int) -> int:
    for index, view in enumerate(batch):
        if sent < len(view):
            batch[index] = view[sent:]
            return index
        sent -= len(view)
    return len(batch)


def _flipped(content: Content, span: Span, offset: int, bit: int) -> Iterator[Buffer]:
    yield from content.read(span.start, offset)
    byte = b"".join(content.read(offset, offset + 1))[0]
    yield bytes([byte ^ (1 << bit)])
    yield from content.read(offset + 1, span.end)
