"""Unpacking a bundle's archive, whoever made it: what is not what its manifest says is refused.

The order of trust: the statement (which is signed, or checked on its way to be) has the digests of
the archive and of the manifest in it, and the manifest those of the files. The archive's digest is
compared before anything of it is decompressed; then the one archive that the manifest has
(`members`) is what comes out, byte for byte, or nothing stays. So it doesn't matter whether
somebody exchanges the archive's bytes between the two readings.

A bomb is not written: nothing is read beyond what the manifest says, which the limits bound.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import zstandard

from modelcache.compilecache.bundles.checking import (
    MANIFEST_BYTES_A_FILE,
    MAX_MANIFEST_BYTES,
    check_archive,
    check_manifest,
    parse_manifest,
)
from modelcache.compilecache.bundles.diagnosing import why_another
from modelcache.compilecache.bundles.gzipping import GzipStream
from modelcache.compilecache.bundles.manifest import BundleFile, BundleManifest
from modelcache.compilecache.bundles.members import (
    BLOCK,
    END,
    MANIFEST_MEMBER,
    header,
    members,
    padding,
)
from modelcache.compilecache.bundles.reading import regular_file
from modelcache.compilecache.bundles.statement import Statement
from modelcache.compilecache.bundles.writing import Writer
from modelcache.compilecache.trees.copying import Owner
from modelcache.compilecache.trees.naming import shown
from modelcache.compilecache.trees.scanning import Limits
from modelcache.errors import BrokenBundle
from modelcache.transfer.cancelling import Cancel

MAX_WINDOW_BYTES: Final = 8 * 1024**2
"""Memory for zstd: what its levels up to 19 want."""
_READ_BYTES: Final = 1024 * 1024
_BROKEN: Final = (zlib.error, zstandard.ZstdError)


def unpack(
    archive: Path,
    statement: Statement,
    into: Path,
    *,
    owner: Owner | None = None,
    limits: Limits | None = None,
    cancel: Cancel | None = None,
) -> BundleManifest:
    """Unpack a bundle into a new directory.

    Nothing is synced to the disk. Who is killed leaves `into` half made, to be removed by others.

    Args:
        archive: a regular file; a link is not followed.
        statement: what it has to be. Whether to trust it was decided before (`trust`).
        into: the directory to be made, in one that is there; it is gone again after an error.
        owner: to whom all of it is to belong; None: to this process's user.
        limits: the most that is unpacked, whatever the statement says.

    Raises:
        BrokenBundle: the archive is not what the statement says, or what none may be.
        NotFound: there is no archive.
        InsufficientDisk, Cancelled
        OSError: the disk fails, or `into` is there.
    """
    with _opened(archive, statement, limits, cancel) as reader, Writer(into, owner) as writer:
        for file in reader.files():
            with writer.file(file) as write:
                reader.content(file, write)
        reader.end()
    return reader.manifest


def check(
    archive: Path,
    statement: Statement,
    *,
    limits: Limits | None = None,
    cancel: Cancel | None = None,
) -> BundleManifest:
    """Check all that `unpack` does, and write nothing.

    Raises:
        BrokenBundle, NotFound, Cancelled
        OSError: the disk fails.
    """
    with _opened(archive, statement, limits, cancel) as reader:
        for file in reader.files():
            reader.content(file, lambda _block: None)
        reader.end()
    return reader.manifest


@contextmanager
def _opened(
    archive: Path, statement: Statement, limits: Limits | None, cancel: Cancel | None
) -> Iterator[_Reader]:
    limits, cancel = limits or Limits(), cancel or Cancel()
    check_archive(statement.archive, limits)
    with regular_file(archive) as file:
        size = os.fstat(file.fileno()).st_size
        if size != statement.archive.size:
            raise BrokenBundle(
                f"the archive has {size} bytes, and its statement says {statement.archive.size}"
            )
        _check_digest(file, statement, cancel)
        file.seek(0)
        yield _Reader(file, statement, limits, cancel)


def _check_digest(file: BinaryIO, statement: Statement, cancel: Cancel) -> None:
    digest = sha256()
    left = statement.archive.size
    while left:
        cancel.check()
        block = file.read(min(left, _READ_BYTES))
        if not block:
            break
        digest.update(block)
        left -= len(block)
    if f"sha256:{digest.hexdigest()}" != statement.archive.digest:
        raise BrokenBundle(
            f"the archive is sha256:{digest.hexdigest()}, and its statement says"
            f" {statement.archive.digest}: bytes were changed"
        )


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Reader:
    """The members of one archive, each of which has to be the one that the manifest says."""

    def __init__(
        self, file: BinaryIO, statement: Statement, limits: Limits, cancel: Cancel
    ) -> None:
        self._cancel = cancel
        self._stream: _Stream
        if statement.archive.compression == "gzip":
            self._stream = BufferedReader(GzipStream(file), _READ_BYTES)
        else:
            unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
            self._stream = unpacker.stream_reader(
                file, read_across_frames=True, closefd=False, read_size=_READ_BYTES
            )
        most = min(MAX_MANIFEST_BYTES, limits.files * MANIFEST_BYTES_A_FILE)
        self.manifest = self._read_manifest(statement, most)
        check_manifest(self.manifest, statement.archive, limits)

    def files(self) -> Iterator[BundleFile]:
        """Each file that is to be unpacked; its content is to be read before the next is asked for.

        Raises:
            BrokenBundle: another member is where it should be.
        """
        for member in members(self.manifest):
            wanted = header(member.name, member.file.size, member.file.mode)
            found = self._read(len(wanted))
            if found != wanted:
                raise BrokenBundle(why_another(found, member, self.manifest))
            if member.unpacked:
                yield member.file
            else:
                self.content(member.file, lambda _block: None)

    def content(self, file: BundleFile, write: Callable[[bytes], object]) -> None:
        """A file's content, in pieces.

        Raises:
            BrokenBundle: it ends before, or is another.
        """
        digest = sha256()
        left = file.size
        while left:
            self._cancel.check()
            block = self._read_some(min(left, _READ_BYTES))
            if not block:
                raise BrokenBundle(f"the archive breaks off in {shown(file.path)}")
            digest.update(block)
            write(block)
            left -= len(block)
        if digest.hexdigest() != file.sha256:
            raise BrokenBundle(f"{shown(file.path)} is another than the manifest says: refused")
        self._expect_zeros(padding(file.size), shown(file.path))

    def end(self) -> None:
        """After the last member nothing comes.

        Raises:
            BrokenBundle: something does.
        """
        found = self._read(len(END))
        if found != END or self._read_some(1):
            raise BrokenBundle(why_another(found, None, self.manifest))

    def _read_manifest(self, statement: Statement, most: int) -> BundleManifest:
        size = self._manifest_size(most)
        content = self._read(size)
        if f"sha256:{sha256(content).hexdigest()}" != statement.archive.manifest:
            raise BrokenBundle("the archive's manifest is another than its statement says: refused")
        self._expect_zeros(padding(size), MANIFEST_MEMBER)
        return parse_manifest(content, statement.archive)

    def _manifest_size(self, most: int) -> int:
        """The one number that is taken out of a header: octal, as ustar has it."""
        found = self._read(BLOCK)
        field = found[124:135]
        if field.isdigit() and not set(field) & set(b"89"):
            size = int(field, 8)
            if found == header(MANIFEST_MEMBER, size):
                if size > most:
                    raise BrokenBundle(f"the manifest has more than {most} bytes")
                return size
        raise BrokenBundle(f"the archive does not begin with {MANIFEST_MEMBER}: it is no bundle")

    def _expect_zeros(self, size: int, where: str) -> None:
        if self._read(size) != bytes(size):
            raise BrokenBundle(f"the archive has something hidden after {where}: refused")

    def _read(self, size: int) -> bytes:
        """So many bytes, or fewer at the end."""
        parts = []
        while size:
            block = self._read_some(min(size, _READ_BYTES))
            if not block:
                break
            parts.append(block)
            size -= len(block)
        return b"".join(parts)

    def _read_some(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except _BROKEN as error:
            raise BrokenBundle(f"the archive can't be decompressed: {shown(str(error))}") from error
