"""The head of an answer, which has to end.

`http.client` bounds each line and the number of headers, but neither how long a line may take nor
how many answers of status 100 may come before the one that counts (RFC 9110, 15.2). h11 bounds each
head, and not how many there are either.
"""

from __future__ import annotations

import http.client
import io
import time
from typing import Any, Final

MOST_BYTES: Final = 256 * 1024
MOST_SECONDS: Final = 60.0


class Allowance:
    """What all heads of one answer may take."""

    def __init__(self) -> None:
        self._left = MOST_BYTES
        self._until = time.monotonic() + MOST_SECONDS

    def check(self) -> None:
        """Call it before reading on.

        Raises:
            TimeoutError: it takes too long.
        """
        if time.monotonic() > self._until:
            raise TimeoutError("its answer doesn't begin")

    def take(self, count: int) -> None:
        """So many bytes came.

        Raises:
            http.client.HTTPException: they are too many.
        """
        self._left -= count
        if self._left < 0:
            raise http.client.HTTPException(f"more than {MOST_BYTES} bytes of headers")


class Head:
    """A stream for as long as the head is read from it."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self.stream = stream
        self._allowance = Allowance()

    def readline(self, limit: int) -> bytes:
        """A line, or its first `limit` bytes.

        Raises:
            http.client.HTTPException: the head is too long.
            TimeoutError: it takes too long.
            OSError
        """
        line = bytearray()
        while len(line) < limit:
            self._allowance.check()
            ahead = self.stream.peek(1)
            end = ahead.find(b"\n") + 1
            piece = self.stream.read(min(end or len(ahead), limit - len(line)))
            line += piece
            self._allowance.take(len(piece))
            if not piece or piece.endswith(b"\n"):
                break
        return bytes(line)

    def close(self) -> None:
        """Close the stream."""
        self.stream.close()


class Response(http.client.HTTPResponse):
    """An answer whose head ends."""

    def begin(self) -> None:
        """Read the head, within its bounds."""
        stream = self.fp
        head: Any = Head(stream)
        self.fp = head
        try:
            super().begin()
        finally:
            if self.fp is head:
                self.fp = stream
