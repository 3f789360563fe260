"""A watch's stream: bytes into events, and what goes wrong on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import urllib3

from modelcache.cluster.resources import Object
from modelcache.errors import ClusterError

SILENT: Final = "Silent"
"""The code of the ClusterError for a stream on which nothing came. Ours, not the server's."""


class Watching:
    """A stream of watch events: `{"type": "ADDED", "object": …}`."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    def batches(self) -> Iterator[list[Object]]:
        """The events until the server ends the stream, each list what came together.

        Each has a `type` and an `object` with a resource version and, but for a bookmark, a name.
        They come as soon as the server sends them (it sends each as a chunk of its own).

        Raises:
            ClusterError: the stream broke or was silent for too long, with status 0; or the server
                says that it can't go on, with the status that it gives (410: the resource version
                is too old). What came before was given.
        """
        rest = b""
        try:
            for chunk in self._response.stream(None, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                events, error = _read(lines)
                if events:
                    yield events
                if error is not None:
                    raise error
        except urllib3.exceptions.ReadTimeoutError as error:
            raise ClusterError("the watch was silent", code=SILENT) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(f"the watch broke: {plain(error)}") from error

    def stop(self) -> None:
        """End the stream, from whatever thread; who reads it gets its end, or a ClusterError."""
        # Never `close`: it waits for who reads. A stream that has ended can't be shut down, which
        # is as well.
        with suppress(ValueError, RuntimeError, OSError):
            self._response.shutdown()


def _read(lines: Sequence[bytes]) -> tuple[list[Object], ClusterError | None]:
    """The events up to the first that is none, and what that one says."""
    events: list[Object] = []
    for line in filter(None, lines):
        try:
            event = json.loads(line)
            kind, thing = event["type"], event["object"]
            if kind == "ERROR":
                return events, _ended(thing)
            metadata = thing["metadata"]
            if not metadata["resourceVersion"] or not (kind == "BOOKMARK" or metadata["name"]):
                raise ValueError("an object without a name")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return events, ClusterError(f"the watch broke: not an event ({error!r})")
        events.append(event)
    return events, None


def _ended(status: Object) -> ClusterError:
    return ClusterError(
        f"the watch ended: {status.get('message')}",
        status=int(status.get("code") or 0),
        code=str(status.get("reason") or ""),
    )


def plain(error: Exception) -> str:
    """What went wrong below urllib3's wrapping."""
    reason = getattr(error, "reason", None)
    return str(reason if isinstance(reason, Exception) else error)
