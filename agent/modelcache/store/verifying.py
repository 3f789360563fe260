"""Reading back what the store holds, to know that it still is what it was."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path

from awscrt.checksums import crc32c

from modelcache.api import Manifest, ManifestFile
from modelcache.api.manifest import CHUNK_BYTES
from modelcache.host.coldread import ColdFile
from modelcache.store.blobs import Blobs
from modelcache.store.hubviews import has_hub_view, hub_snapshot
from modelcache.store.layout import Layout
from modelcache.store.paths import relative_path

ROT = (errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.EREMOTEIO)
"""What reading gives on a disk that lost something: a bad sector, a file system's checksum."""
_MOST_UNREADABLE = 16
"""Chunks of a file that can't be read until the rest of it isn't tried."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One file that is not what its manifest says.

    Attributes:
        path: its place in the plain view.
        sha256: the blob that it should be.
        what: for a person.
        ranges: the byte ranges (start, end) that are wrong, where that is known.
        blob: whether the blob itself is wrong or gone, not only a view's name for it.
        unreadable: whether the disk failed to give it: it may be the disk that is out of order.
    """

    path: str
    sha256: str
    what: str
    ranges: tuple[tuple[int, int], ...] = ()
    blob: bool = True
    unreadable: bool = False


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


class Reading:
    """A file that is read back, and may be left and gone on with. For one thread."""

    def __init__(self, path: Path, digest: str, size: int | None, chunks: tuple[str, ...]) -> None:
        """Read nothing yet.

        Args:
            path: the file.
            digest: the SHA-256 that it should have, in hex.
            size: the bytes that it should have; None: whatever it has.
            chunks: the CRC32C of each 16 MiB that it should have, in hex; none: not known.
        """
        self._path = path
        self._digest = digest
        self._size = size
        self._expected = chunks
        self._file: tuple[int, ...] | None = None
        self._begin()

    def _begin(self) -> None:
        self._hashing, self._offset = sha256(), 0
        self._chunks: list[int | None] = []
        """The CRC32C of each chunk so far; None: it can't be read."""
        self._complaint = ""

    @property
    def digest(self) -> str:
        """The SHA-256 of what was read."""
        return self._hashing.hexdigest()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._offset

    @property
    def chunks(self) -> tuple[str, ...]:
        """The CRC32C of each chunk so far, empty for one that can't be read."""
        return tuple("" if crc is None else f"{crc:08x}" for crc in self._chunks)

    def go_on(
        self,
        on_bytes: Callable[[int], None] = lambda _: None,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        """Read to the end. `stop` is called between reads and may raise: then it can go on later.

        Raises:
            FileNotFoundError
            OSError: it could not be read for a reason that lies not in the disk.
        """
        with ColdFile(self._path) as file:
            found = os.fstat(file.fd)
            same = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
            if self._file != same:
                self._file = same
                self._begin()
            while True:
                stop()
                try:
                    data = file.read(self._offset)
                except OSError as error:
                    if error.errno not in ROT:
                        raise
                    self._pass_over(found.st_size, error)
                    continue
                if not data:
                    return
                self._take(data)
                on_bytes(len(data))

    def _take(self, data: memoryview) -> None:
        # Chunks are a multiple of what is read at once, and only the end is read short.
        if self._offset % CHUNK_BYTES == 0:
            self._chunks.append(0)
        self._hashing.update(data)
        before = self._chunks[-1]
        assert before is not None
        self._chunks[-1] = crc32c(data, before)
        self._offset += len(data)

    def _pass_over(self, size: int, error: OSError) -> None:
        """Go on with the next chunk: what else is wrong is to be known, and what is good."""
        self._complaint = f"can't be read: {error.strerror}"
        del self._chunks[self._offset // CHUNK_BYTES :]
        self._chunks.append(None)
        self._offset = min(size, len(self._chunks) * CHUNK_BYTES)
        if self._chunks.count(None) >= _MOST_UNREADABLE:
            # A disk that takes half a minute for each is not asked on for hours.
            self._chunks += [None] * (-(-size // CHUNK_BYTES) - len(self._chunks))
            self._offset = size

    def damage(self, path: str) -> Damage | None:
        """What is wrong with it, once it is read to the end; None: it is whole."""
        if self._complaint:
            what = self._complaint
        elif self._size is not None and self._offset != self._size:
            what = f"has {self._offset} bytes instead of {self._size}"
        elif self.digest == self._digest:
            return None
        else:
            what = "its content has changed"
        return Damage(path, self._digest, what, self._wrong(), unreadable=bool(self._complaint))

    def _wrong(self) -> tuple[tuple[int, int], ...]:
        size = self._offset if self._size is None else self._size
        return tuple(
            (index * CHUNK_BYTES, min((index + 1) * CHUNK_BYTES, size))
            for index, (then, now) in enumerate(zip_longest(self._expected, self.chunks))
            if index * CHUNK_BYTES < size and now != then and self._expected
        )


def read_back(
    path: Path,
    file: ManifestFile,
    on_bytes: Callable[[int], None],
    stop: Callable[[], None] = lambda: None,
) -> Damage | None:
    """Read a file and hash it. `stop` is called between reads and may raise.

    The page cache stays as it is: see `host.coldread`.

    Returns:
        The damage, with the chunks of 16 MiB that are wrong; None when it is whole.

    Raises:
        OSError: it could not be read for a reason that lies not in the disk.
    """
    reading = Reading(path, file.sha256, file.size, file.chunks)
    try:
        reading.go_on(on_bytes, stop)
    except FileNotFoundError:
        return Damage(file.path, file.sha256, "is missing")
    except OSError as error:
        if error.errno not in ROT:
            raise
        what = f"can't be read: {error.strerror}"
        return Damage(file.path, file.sha256, what, unreadable=True)
    return reading.damage(file.path)


def verify(
    layout: Layout,
    blobs: Blobs,
    manifest: Manifest,
    on_bytes: Callable[[int], None] = lambda _: None,
    stop: Callable[[], None] = lambda: None,
) -> list[Damage]:
    """Read a snapshot back, whole. See `read_back`.

    Raises:
        OSError: it could not be read for a reason that lies not in the disk.
    """
    damages = {damage.path: damage for damage in look(layout, blobs, manifest)}
    digests: dict[str, Damage | None] = {}
    for file in manifest.files:
        if file.path in damages and damages[file.path].blob:
            continue
        if file.sha256 not in digests:
            blob = blobs.path(file.sha256)
            digests[file.sha256] = read_back(blob, file, on_bytes, stop)
        damage = digests[file.sha256]
        if damage is not None:
            damages[file.path] = replace(damage, path=file.path)
        elif file.path not in damages:
            damage = check_view(layout, blobs, manifest, file, on_bytes, stop)
            if damage is not None:
                damages[file.path] = damage
    return list(damages.values())


def check_view(
    layout: Layout,
    blobs: Blobs,
    manifest: Manifest,
    file: ManifestFile,
    on_bytes: Callable[[int], None] = lambda _: None,
    stop: Callable[[], None] = lambda: None,
) -> Damage | None:
    """What is wrong with a file's place in the plain view, whose blob is whole.

    Raises:
        FileNotFoundError: one of both is gone.
    """
    view = layout.view(manifest.model, manifest.snapshot) / relative_path(file.path)
    if blobs.path(file.sha256).samefile(view):
        return None
    # A copy, because the blob had no more links to give; or what somebody put there.
    damage = read_back(view, file, on_bytes, stop)
    return None if damage is None else replace(damage, blob=False)


def describe(blobs: Blobs, digest: str, size: int, identity: str) -> ManifestFile | None:
    """What a manifest says of a blob, found out by reading it; a wrong one is removed: None."""
    reading = Reading(blobs.path(digest), digest, size, ())
    try:
        reading.go_on()
        damage = reading.damage(digest)
    except FileNotFoundError:
        return None  # evicted a moment ago
    except OSError as error:
        if error.errno not in ROT:
            raise
        damage = Damage(digest, digest, f"can't be read: {error.strerror}")
    if damage is not None:
        blobs.set_aside(digest)
        return None
    return ManifestFile(
        path=digest,
        size=size,
        sha256=digest,
        chunks=reading.chunks,
        origin_path=digest,
        identity=identity,
    )
