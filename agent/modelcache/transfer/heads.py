"""The head of an answer, which has to end.

`http.client` bounds each line and the number of headers, but neither how long a line may take nor
how many answers of status 100 may come before the one that counts (RFC 9110, 15.2).
"""

from __future__ import annotations

import http.client
import io
import time
from typing import Final

MOST_BYTES: Final = 256 * 1024
MOST_SECONDS: Final = 60.0


class Head:
    """A stream for as long as the head is read from it."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self.stream = stream
        self._left = MOST_BYTES
        self._until = time.monotonic() + MOST_SECONDS

    def readline(self, limit: int) -> bytes:
        """A line, or its first `limit` bytes.

        Raises:
            http.client.HTTPException: the head is too long.
            TimeoutError: it takes too long.
            OSError
        """
        line = bytearray()
        while len(line) < limit:
            if time.monotonic() > self._until:
                raise TimeoutError("its answer doesn't begin")
            ahead = self.stream.peek(1)
            end = ahead.find(b"\n") + 1
            piece = self.stream.read(min(end or len(ahead), limit - len(line)))
            line += piece
            self._left -= len(piece)
            if self._left < 0:
                raise http.client.HTTPException(f"more than {MOST_BYTES} bytes of headers")
            if not piece or piece.endswith(b"\n"):
                break
        return bytes(line)

    def close(self) -> None:
        """Close the stream."""
        self.stream.close()
