"""Content taken into a store by a hard link: no byte is copied, and both names are one file.

The store promises that nobody writes to a blob. Whoever owns a file may write to it, so a link is
made only on request, and only of files that the store's own user owns and nobody else may write to.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from modelcache.api import ManifestFile
from modelcache.api.manifest import CHUNK_BYTES
from modelcache.errors import OriginChanged, UsageError
from modelcache.origins import LocalLocation, RemoteFile
from modelcache.store import Piece, Store
from modelcache.transfer.digesting import Digests, checksum, chunk_checksums

_READ_BYTES = 1024 * 1024


def hard_link(
    store: Store,
    location: LocalLocation,
    file: RemoteFile,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> ManifestFile:
    """Read a file, compare it with what is promised of it, and give it the name of its blob.

    The file becomes read-only for everybody (mode 0444), under all of its names.

    Returns:
        What the manifest says of it.

    Raises:
        UsageError: it may not be linked, and why.
        ChecksumMismatch: it is not what its name says.
        OriginChanged: somebody wrote to it meanwhile.
    """
    fd = location.open()
    try:
        _check(fd, location, store)
        os.fchmod(fd, 0o444)
        described = _read(fd, file, on_bytes)
        location.check(fd)
        store.blobs.adopt(fd, described.sha256)
        location.check(fd)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise _refused(location, "it is on another mount than the cache") from error
        raise OriginChanged(f"{location.path} can't be linked: {error.strerror}") from error
    finally:
        os.close(fd)
    return described


def _check(fd: int, location: LocalLocation, store: Store) -> None:
    found = os.fstat(fd)
    if found.st_dev != os.stat(store.layout.root).st_dev:
        raise _refused(location, "it is on another file system than the cache")
    if found.st_uid != os.geteuid():
        raise _refused(location, f"its owner is user {found.st_uid}, not {os.geteuid()}")
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise _refused(location, "others than its owner may write to it")


def _refused(location: LocalLocation, why: str) -> UsageError:
    return UsageError(f"{location.path} can't be linked, as {why}: leave --link out to copy it")


def _read(fd: int, file: RemoteFile, on_bytes: Callable[[int], None]) -> ManifestFile:
    digests = Digests(file.size, file.sha256, file.checksums)
    pieces = []
    view = memoryview(bytearray(_READ_BYTES))
    offset = 0
    assert CHUNK_BYTES % _READ_BYTES == 0
    while count := os.preadv(fd, [view], offset):
        digests.update(view[:count])
        pieces.append(Piece(offset, offset + count, checksum(view[:count])))
        offset += count
        on_bytes(count)
    checksums = digests.check(file.path)
    checksums.pop("sha256", None)
    return ManifestFile(
        path=file.path,
        size=file.size,
        sha256=digests.sha256,
        chunks=chunk_checksums(pieces),
        origin_path=file.origin_path,
        identity=file.identity,
        etag=file.etag,
        checksums=checksums,
    )
