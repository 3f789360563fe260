"""Reading back what the store holds, to know that it still is what it was."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from awscrt.checksums import crc32c

from modelcache.api import Manifest, ManifestFile
from modelcache.api.manifest import CHUNK_BYTES
from modelcache.store.blobs import Blobs
from modelcache.store.hubviews import has_hub_view, hub_snapshot
from modelcache.store.layout import Layout
from modelcache.store.paths import relative_path

_READ_BYTES = 1024 * 1024
_ROT = (errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.EREMOTEIO)
"""What reading gives on a disk that lost something: a bad sector, a file system's checksum."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One file that is not what its manifest says.

    Attributes:
        path: its place in the plain view.
        sha256: the blob that it should be.
        what: for a person.
        ranges: the byte ranges (start, end) that are wrong, where that is known.
        blob: whether the blob itself is wrong or gone, not only a view's name for it.
    """

    path: str
    sha256: str
    what: str
    ranges: tuple[tuple[int, int], ...] = ()
    blob: bool = True


def look(layout: Layout, blobs: Blobs, manifest: Manifest) -> list[Damage]:
    """A quick look: every file is there, in blobs and in its views, with its size.

    Costs three `stat`s a file and reads nothing.
    """
    view = layout.view(manifest.model, manifest.snapshot)
    # Not where another snapshot of the same commit has that place.
    hub = manifest.hub is not None and has_hub_view(layout, manifest)
    damages = []
    for file in manifest.files:
        if not blobs.has(file.sha256, file.size):
            damages.append(
                Damage(file.path, file.sha256, "its blob is missing or has another size")
            )
            continue
        try:
            found = (view / relative_path(file.path)).lstat()
        except (FileNotFoundError, NotADirectoryError):
            damages.append(Damage(file.path, file.sha256, "missing from the view", blob=False))
            continue
        if found.st_size != file.size or (found.st_mode & 0o170000) != 0o100000:
            damages.append(Damage(file.path, file.sha256, "another file in the view", blob=False))
        elif hub and not _in_hub(hub_snapshot(layout, manifest), file):
            damages.append(Damage(file.path, file.sha256, "missing from the hub view", blob=False))
    return damages


def _in_hub(snapshot: Path, file: ManifestFile) -> bool:
    try:
        return (snapshot / relative_path(file.origin_path)).stat().st_size == file.size
    except (FileNotFoundError, NotADirectoryError):
        return False


def read_back(
    path: Path,
    file: ManifestFile,
    on_bytes: Callable[[int], None],
    stop: Callable[[], None] = lambda: None,
) -> Damage | None:
    """Read a file and hash it. `stop` is called between reads and may raise.

    Pages that this brings into the page cache are dropped again; nobody asked for them.

    Returns:
        The damage, with the chunks of 16 MiB that are wrong; None when it is whole.

    Raises:
        OSError: it could not be read for a reason that lies not in the disk.
    """
    try:
        found, chunks, size = _read(path, on_bytes, stop)
    except FileNotFoundError:
        return Damage(file.path, file.sha256, "is missing")
    except OSError as error:
        if error.errno not in _ROT:
            raise
        return Damage(file.path, file.sha256, f"can't be read: {error.strerror}")
    if size != file.size:
        return Damage(file.path, file.sha256, f"has {size} bytes instead of {file.size}")
    if found == file.sha256:
        return None
    wrong = tuple(
        (index * CHUNK_BYTES, min((index + 1) * CHUNK_BYTES, size))
        for index, (now, then) in enumerate(zip(chunks, file.chunks, strict=False))
        if now != then
    )
    return Damage(file.path, file.sha256, "its content has changed", ranges=wrong)


def describe(blobs: Blobs, digest: str, size: int, identity: str) -> ManifestFile | None:
    """What a manifest says of a blob, found out by reading it; a wrong one is removed: None."""
    try:
        found, chunks, length = _read(blobs.path(digest), lambda _: None, lambda: None)
    except FileNotFoundError:
        return None  # evicted a moment ago
    except OSError as error:
        if error.errno not in _ROT:
            raise
        found, chunks, length = "", (), -1
    if found != digest or length != size:
        blobs.set_aside(digest)
        return None
    return ManifestFile(
        path=digest, size=size, sha256=digest, chunks=chunks, origin_path=digest, identity=identity
    )


def _read(
    path: Path, on_bytes: Callable[[int], None], stop: Callable[[], None]
) -> tuple[str, tuple[str, ...], int]:
    """The SHA-256, the CRC32C of each chunk, and the size that a file has."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    view = memoryview(bytearray(_READ_BYTES))
    hashing, chunks, offset = sha256(), list[int](), 0
    try:
        while count := os.preadv(fd, [view], offset):
            stop()
            # Chunks are a multiple of what is read at once, and only the end is read short.
            if offset % CHUNK_BYTES == 0:
                chunks.append(0)
            hashing.update(view[:count])
            chunks[-1] = crc32c(view[:count], chunks[-1])
            offset += count
            on_bytes(count)
    finally:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    return hashing.hexdigest(), tuple(f"{crc:08x}" for crc in chunks), offset
