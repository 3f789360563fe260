"""Answers that SDKs read whole into memory: lists, descriptions, refusals, tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from urllib3.exceptions import ProtocolError

MOST_BYTES: Final = 64 * 1024 * 1024


class Bounded:
    """An answer of urllib3's, of which no more than that is read by `stream`, unpacked or not."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._answer, name)

    def stream(self, *given: Any, **named: Any) -> Iterator[bytes]:
        """The body, piece by piece.

        Raises:
            urllib3.exceptions.ProtocolError: it is too long.
        """
        count = 0
        for piece in self._answer.stream(*given, **named):
            count += len(piece)
            if count > MOST_BYTES:
                self._answer.close()
                raise ProtocolError(f"an answer of more than {MOST_BYTES} bytes")
            yield piece
