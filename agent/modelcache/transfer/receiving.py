"""One range of one file: from the origin's socket or file into the partial file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from modelcache.errors import ModelCacheError, OriginUnavailable
from modelcache.origins.protocol import HttpLocation, LocalLocation, Location
from modelcache.store import Partial, Piece
from modelcache.transfer.buffers import PIECE_BYTES, Buffers
from modelcache.transfer.cancelling import Cancel
from modelcache.transfer.filefetch import FileFetch, Range
from modelcache.transfer.http import Body, HttpClient
from modelcache.transfer.limiting import Pace
from modelcache.transfer.spending import spending

_FICLONE = 0x40049409


class WholeFileOnly(OriginUnavailable):
    """The server answers a range with the whole file: ask for the whole file then."""


class _LocalBody:
    """A file of a mounted file system, read from an offset on."""

    etag = None
    checksums: Mapping[str, str] = MappingProxyType({})

    def __init__(self, fd: int, start: int, place: str) -> None:
        self._fd = fd
        self._place = place
        self._offset = self.start = start

    def readinto(self, view: memoryview) -> int:
        try:
            count = os.preadv(self._fd, [view], self._offset)
        except OSError as error:
            raise OriginUnavailable(f"{self._place} can't be read: {error.strerror}") from error
        self._offset += count
        return count


@dataclass(frozen=True, slots=True)
class Flow:
    """What a range's bytes have to do with the rest of the world.

    Attributes:
        cancel: stops them.
        heard: called when any came.
        received: called with the size of each piece that is on the disk.
    """

    cancel: Cancel
    heard: Callable[[], None]
    received: Callable[[int], None]


class Receiver:
    """Receives ranges, one after the other. Each connection has its own.

    `position` tells how far the last range came, also when it failed.
    """

    def __init__(self, http: HttpClient, buffers: Buffers, pace: Pace) -> None:
        self._http = http
        self._buffers = buffers
        self._pace = pace
        self._sip = pace.sip
        self._buffer = buffers.must()
        self.position = 0

    def close(self) -> None:
        """Give the buffer back."""
        self._buffers.give_back(self._buffer)

    def receive(self, fetch: FileFetch, wanted: Range, location: Location, flow: Flow) -> None:
        """Bring a range to the disk, piece by piece.

        Raises:
            WholeFileOnly, ModelCacheError, OSError: what came before it is kept.
        """
        self.position = wanted.start
        self._sip = self._pace.sip
        with self._open(location, wanted, fetch.file.size, flow.cancel) as body:
            mirror = location.mirror if isinstance(location, HttpLocation) else None
            # With a digest it doesn't matter: servers behind one name may have a tag each.
            if fetch.file.sha256 is None:
                fetch.check_etag(body.etag, mirror)
            fetch.promise(body.checksums)
            if body.start != wanted.start:
                if not wanted.whole:
                    raise WholeFileOnly(f"{fetch.file.path}: the server sends whole files only")
                self._skip(body, wanted.start, flow)
            while self.position < wanted.end:
                end = min(wanted.end, (self.position // PIECE_BYTES + 1) * PIECE_BYTES)
                self._receive_piece(fetch, body, end - self.position, flow)

    def _receive_piece(
        self, fetch: FileFetch, body: Body | _LocalBody, size: int, flow: Flow
    ) -> None:
        filled = 0
        try:
            while filled < size:
                filled += self._read(body, self._buffer[filled:size], flow)
        finally:
            # Also what a broken connection brought: it is not asked for again.
            if filled:
                self._buffer = fetch.take(self.position, self._buffer, filled)
                self.position += filled
                flow.received(filled)

    def _read(self, body: Body | _LocalBody, view: memoryview, flow: Flow) -> int:
        flow.cancel.check()
        with spending("origin"):
            count = body.readinto(view[: self._sip])
        if count == 0:
            raise OriginUnavailable("the origin ended its answer too early")
        flow.heard()
        self._pace.take(count, flow.cancel)
        return count

    def _skip(self, body: Body | _LocalBody, size: int, flow: Flow) -> None:
        while size:
            size -= self._read(body, self._buffer[: min(size, PIECE_BYTES)], flow)

    @contextmanager
    def _open(
        self, location: Location, wanted: Range, size: int, cancel: Cancel
    ) -> Iterator[Body | _LocalBody]:
        if isinstance(location, HttpLocation):
            with self._http.get(location, wanted.start, wanted.end, size, cancel) as body:
                yield body
            return
        fd = location.open()
        try:
            yield _LocalBody(fd, wanted.start, location.path)
            location.check(fd)
        finally:
            # Nobody asked for these pages; what somebody has mapped stays.
            os.posix_fadvise(fd, wanted.start, wanted.end - wanted.start, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def reflink(location: LocalLocation, partial: Partial) -> bool:
    """Let the partial file share a local file's extents, where that can be (ioctl_ficlone(2)).

    The copy is independent from then on: a change of either is not seen in the other.

    Returns:
        Whether it could. The content is still to be read and hashed.
    """
    fd = location.open()
    try:
        fcntl.ioctl(partial.fd, _FICLONE, fd)
        location.check(fd)
    except ModelCacheError:
        raise
    except OSError:
        return False
    finally:
        os.close(fd)
    partial.pieces = [Piece(0, partial.size, None)]
    return True
