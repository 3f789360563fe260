"""Tar archives read once, from front to back, as strangers made them.

tarfile knows the formats (ustar, GNU, PAX); it trusts what it reads. Here every name is made plain,
headers and the whole have limits, and an archive that breaks off is no short archive. Only the
blocks of zeros at its end may be missing: container runtimes don't ask for them either, and who
fetched it has compared its digest.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Final, Protocol, Self, cast

import zstandard

from modelcache.errors import BrokenArchive, UnsafePath
from modelcache.origins.names import shown
from modelcache.origins.protocol import Compression
from modelcache.store.listings import Kind
from modelcache.transfer.layering import MAX_DEPTH

MAX_ENTRIES: Final = 500_000
"""Entries of one archive. A whole operating system has about 100,000."""
MAX_NAME_BYTES: Final = 4096
"""PATH_MAX of Linux."""
MAX_HEADER_BYTES: Final = 4 * 1024 * 1024
"""What precedes one entry's content: extended headers, long names, maps of sparse files."""
MAX_GLOBAL_BYTES: Final = 64 * 1024
"""Extended headers that are about all entries after them, which tarfile keeps."""
MAX_WINDOW_BYTES: Final = 128 * 1024 * 1024
"""Memory for zstd; more is wanted only by archives made with --ultra --long."""

_READ_BYTES = 1024 * 1024
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_BROKEN = (tarfile.TarError, zlib.error, EOFError, zstandard.ZstdError, gzip.BadGzipFile)
# What tarfile's own reading of hostile headers ends in.
_MISREAD = (ValueError, OverflowError, IndexError, KeyError, RecursionError)


class Readable(Protocol):
    """Bytes from front to back."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""
        ...


@dataclass(slots=True)
class Member:
    """One entry as it passes. `size` and `target` as in `store.Entry`."""

    kind: Kind
    path: str
    size: int = 0
    target: str = ""
    content: IO[bytes] | None = None

    def read_into(self, view: memoryview) -> None:
        """Fill the view with the next bytes of a file, while it is this entry's turn.

        Raises:
            BrokenArchive: there are none.
        """
        assert self.content is not None
        done = 0
        while done < len(view):
            with _reading():
                count = self.content.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                raise BrokenArchive(f"an archive breaks off in {shown(self.path)}")
            done += count


class TarReader:
    """The entries of one archive, in order."""

    def __init__(self, source: Readable, compression: Compression, *, most: int) -> None:
        """`most` bytes may come out of it in all, whatever they are."""
        self._stream = _Limited(_decompressed(source, compression), most)

    def members(self) -> Iterator[Member]:
        """Each entry; its content can be read until the next is asked for.

        Raises:
            BrokenArchive: it can't be read, or has more in it than is allowed.
            UnsafePath: a name is too long, or too deep.
        """
        with _reading(), self._stream.header():
            # It reads the first header at once.
            tar = tarfile.open(  # noqa: SIM115 - it holds nothing but what we give it
                fileobj=cast(IO[bytes], self._stream),
                mode="r|",
                bufsize=_READ_BYTES,
                tarinfo=_Header,
            )
        for number in range(MAX_ENTRIES + 1):
            with _reading():
                found = self._next(tar, is_first=number == 0)
            if found is None:
                return
            member = _member(found)
            if member.kind == "file":
                with _reading():
                    member.content = tar.extractfile(found)
            yield member
            # tarfile would remember them all.
            tar.members.clear()  # type: ignore[attr-defined]
        raise BrokenArchive(f"an archive has more than {MAX_ENTRIES} entries, which is refused")

    def _next(self, tar: tarfile.TarFile, *, is_first: bool) -> tarfile.TarInfo | None:
        if not is_first:
            # So that only a header counts as one.
            _skip(tar)
        with self._stream.header():
            found = tar.next()
        if found is not None:
            _check_sizes(found)
        kept = sum(len(name) + len(value) for name, value in tar.pax_headers.items())
        if kept > MAX_GLOBAL_BYTES:
            raise BrokenArchive(
                f"an archive has headers of more than {MAX_GLOBAL_BYTES} bytes for all entries:"
                " that is refused"
            )
        return found


class _Header(tarfile.TarInfo):
    """A header that is wrong is an error: tarfile takes it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read 512 bytes."""
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise BrokenArchive(f"an archive has a header that is wrong: {error}") from error
            raise  # nothing, or zeros: the end
        _check_sizes(header)
        return header


class _Limited:
    """A stream that has limits: in all, and for one header."""

    def __init__(self, stream: Readable, most: int) -> None:
        self._stream = stream
        self._left = most
        self._header: int | None = None

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise BrokenArchive("an archive unpacks to more than the disk's size: that is refused")
        if self._header is not None:
            self._header -= len(data)
            if self._header < 0:
                raise BrokenArchive(
                    f"an archive has headers of more than {MAX_HEADER_BYTES} bytes for one entry:"
                    " that is refused"
                )
        return data

    @contextmanager
    def header(self) -> Iterator[None]:
        self._header = MAX_HEADER_BYTES + _READ_BYTES  # it reads ahead by one buffer
        try:
            yield
        finally:
            self._header = None


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise BrokenArchive(f"an archive can't be read: {error}") from error
    except _MISREAD as error:
        raise BrokenArchive(f"an archive has a header that makes no sense: {error}") from error


def _decompressed(source: Readable, compression: Compression) -> Readable:
    if compression == "gzip":
        return gzip.GzipFile(fileobj=cast(IO[bytes], source), mode="rb")
    if compression == "zstd":
        unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        return unpacker.stream_reader(cast(IO[bytes], source), read_across_frames=True)
    return source


def _skip(tar: tarfile.TarFile) -> None:
    """Pass over what is left of an entry. tarfile's own way goes on and on after the end."""
    assert tar.fileobj is not None
    left = tar.offset - tar.fileobj.tell()
    if left < 0:
        raise BrokenArchive("an archive has an entry with a size that makes no sense")
    while left > 0:
        data = tar.fileobj.read(min(left, _READ_BYTES))
        if not data:
            raise BrokenArchive("an archive breaks off in the middle of an entry")
        left -= len(data)


def _check_sizes(found: tarfile.TarInfo) -> None:
    """Check a header's size, and the places of a sparse file's parts.

    Raises:
        BrokenArchive: below zero, or out of order.
    """
    end = 0
    for offset, size in cast(list[tuple[int, int]] | None, found.sparse) or ():
        if size and not end <= offset <= offset + size <= found.size:
            raise BrokenArchive("an archive has a sparse file whose parts make no sense")
        end = offset + size if size else end
    if found.size < 0:
        raise BrokenArchive("an archive has an entry with a size below zero")


def _member(found: tarfile.TarInfo) -> Member:
    member = _named(found, plain_path(found.name))
    if ".." in found.name.split("/"):
        # At the place that is meant, so that whoever wants that file is told.
        return Member("unsafe", member.path)
    return member


def _named(found: tarfile.TarInfo, path: str) -> Member:
    parent, _, name = path.rpartition("/")
    if name == _OPAQUE:
        return Member("opaque", parent)
    if name.startswith(_WHITEOUT):
        hidden = name.removeprefix(_WHITEOUT)
        if hidden.startswith(_WHITEOUT):
            return Member("other", path)  # aufs' own book-keeping
        if hidden in ("", ".", ".."):
            return Member("unsafe", path)
        return Member("gone", f"{parent}/{hidden}" if parent else hidden)
    if found.isreg():
        return Member("file", path, found.size)
    if found.isdir():
        return Member("folder", path)
    if found.issym() or found.islnk():
        _check_length(found.linkname)
        return Member("link" if found.issym() else "hard", path, target=found.linkname)
    return Member("other", path)


def plain_path(name: str) -> str:
    """A name in an archive, from its root on: without `.`, `..` and empty components.

    As container runtimes do it, a name that begins with a slash begins at the archive's root, above
    which is nothing.

    Raises:
        UnsafePath: it is too long, or lies in too many folders.
    """
    _check_length(name)
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    if len(parts) > MAX_DEPTH:
        raise UnsafePath(f"an archive has folders in each other more than {MAX_DEPTH} deep")
    return "/".join(parts)


def _check_length(name: str) -> None:
    if len(name.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES:
        raise UnsafePath(f"an archive has a name of more than {MAX_NAME_BYTES} bytes")
