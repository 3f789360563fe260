"""Packing a tree of files into a bundle's archive: the same files, the same bytes.

The files are read twice, once for their digests, since the manifest is the first member, and once
into the archive; that both were the same is checked. They are opened through descriptors, as the
very files that were scanned: a tree may be a pod's, which swaps a directory for a link.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import IO, Final, Literal, Protocol, cast

import zstandard

from modelcache.compilecache.bundles.checking import (
    MAX_ARCHIVE_BYTES,
    MAX_MANIFEST_BYTES,
    check_archive,
    check_names,
)
from modelcache.compilecache.bundles.foreign import foreign_files
from modelcache.compilecache.bundles.manifest import (
    EXECUTABLE_MODE,
    FILE_MODE,
    BundleFile,
    BundleManifest,
    Layout,
    manifest_bytes,
)
from modelcache.compilecache.bundles.members import (
    END,
    MANIFEST_MEMBER,
    header,
    layout_of,
    members,
    padding,
)
from modelcache.compilecache.bundles.statement import Archive
from modelcache.compilecache.trees.copying import plain_mode
from modelcache.compilecache.trees.naming import shown
from modelcache.compilecache.trees.opening import opened, root_folder
from modelcache.compilecache.trees.scanning import Entry, Limits, Tree
from modelcache.errors import BrokenBundle, TreeChanged
from modelcache.store.durable import disk_errors
from modelcache.transfer.cancelling import Cancel

Compression = Literal["zstd", "gzip"]

_READ_BYTES: Final = 1024 * 1024
_LEVELS: Final[dict[Compression, int]] = {"zstd": 3, "gzip": 6}
_MAX_LEVELS: Final[dict[Compression, int]] = {"zstd": 19, "gzip": 9}


@dataclass(frozen=True, slots=True)
class Packed:
    """What was packed. The archive's file is where it was asked for."""

    archive: Archive
    manifest: BundleManifest


def pack(
    root: Path,
    tree: Tree,
    out: Path,
    *,
    compression: Compression = "zstd",
    level: int | None = None,
    layout: Layout | None = None,
    limits: Limits | None = None,
    cancel: Cancel | None = None,
) -> Packed:
    """Pack the wanted files of a tree, as it was scanned, into a new archive.

    What is odd in the tree is not packed: who scanned it decides whether that matters. One thread,
    and memory for a few mebibytes and the manifest. The archive is not synced to the disk.

    Args:
        root: the directory that was scanned.
        out: the archive's file, which must not be there; it is gone again after an error.
        compression: gzip for what MCV is to read.
        level: 1 to 19 (zstd) or 9 (gzip); None: 3 or 6.
        layout: how files are named in it; None: as MCV has them, where it can read them.
        limits: what may be packed; those by which it will be unpacked.

    Raises:
        BrokenBundle: a file's name can't be in a bundle, or there is too much of it.
        TreeChanged: a file is not any more what was scanned, or changed meanwhile.
        InsufficientDisk, Cancelled
        OSError: the disk fails, or `out` is there.
    """
    cancel, limits = cancel or Cancel(), limits or Limits()
    if level is not None and not 1 <= level <= _MAX_LEVELS[compression]:
        raise ValueError(f"{compression} has no level {level}")
    with root_folder(root) as folder:
        manifest = _manifest(folder, tree, layout, limits, cancel)
        content = manifest_bytes(manifest)
        if len(content) > MAX_MANIFEST_BYTES:
            raise BrokenBundle(f"the manifest would have more than {MAX_MANIFEST_BYTES} bytes")
        with _new_file(out) as file, disk_errors():
            target = _Digesting(file)
            with _compressing(target, compression, level or _LEVELS[compression]) as stream:
                _put(stream, MANIFEST_MEMBER, content)
                _put_members(stream, folder, tree, manifest, cancel)
                stream.write(END)
            archive = Archive(
                digest=f"sha256:{target.digest.hexdigest()}",
                size=target.size,
                compression=compression,
                manifest=f"sha256:{sha256(content).hexdigest()}",
                files=len(manifest.files),
                bytes=manifest.bytes,
            )
            check_archive(archive, limits)  # what nobody would unpack is not made
    return Packed(archive, manifest)


class _Writable(Protocol):
    def write(self, data: bytes, /) -> int: ...


class _Digesting:
    """A file that is digested and counted while it is written."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.digest = sha256()
        self.size = 0

    def write(self, data: bytes, /) -> int:
        self.size += len(data)
        if self.size > MAX_ARCHIVE_BYTES:
            raise BrokenBundle(f"the archive would have more than {MAX_ARCHIVE_BYTES} bytes")
        self.digest.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        return len(data)

    def flush(self) -> None:
        """For GzipFile."""


@contextmanager
def _new_file(path: Path) -> Iterator[FileIO]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        # Unbuffered: closing it writes nothing, and so can't fail.
        with os.fdopen(fd, "wb", buffering=0) as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def _compressing(target: _Digesting, compression: Compression, level: int) -> Iterator[_Writable]:
    """A stream whose bytes depend on nothing but what is written, and on the library's version."""
    if compression == "gzip":
        with gzip.GzipFile(
            filename="", mode="wb", fileobj=cast(IO[bytes], target), compresslevel=level, mtime=0
        ) as zipped:
            yield zipped
        return
    # No threads: with them the bytes depend on how many there are.
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
    with compressor.stream_writer(cast(IO[bytes], target), closefd=False) as stream:
        yield stream


def _manifest(
    folder: int, tree: Tree, layout: Layout | None, limits: Limits, cancel: Cancel
) -> BundleManifest:
    entries = sorted(tree.entries, key=lambda entry: entry.path)
    if len(entries) > limits.files or tree.bytes > limits.bytes:
        raise BrokenBundle(
            f"{len(entries)} files with {tree.bytes} bytes are more than a bundle may have"
            f" ({limits.files} files, {limits.bytes} bytes)"
        )
    manifest = BundleManifest(
        layout=layout or layout_of(entry.path for entry in entries),
        files=tuple(_described(folder, entry, cancel) for entry in entries),
    )
    check_names(manifest, limits)
    foreign = tuple(file for file, _ in foreign_files(manifest))
    return manifest.model_copy(update={"foreign": foreign}) if foreign else manifest


def _described(folder: int, entry: Entry, cancel: Cancel) -> BundleFile:
    digest = sha256()
    for block in _blocks(folder, entry, cancel):
        digest.update(block)
    return BundleFile(
        path=entry.path,
        size=entry.size,
        sha256=digest.hexdigest(),
        mode=EXECUTABLE_MODE if plain_mode(entry.mode) == EXECUTABLE_MODE else FILE_MODE,
        mtime=max(0, entry.mtime_ns),
    )


def _blocks(folder: int, entry: Entry, cancel: Cancel) -> Iterator[bytes]:
    """A file's content, exactly as many bytes as were scanned."""
    with opened(folder, entry) as fd:
        left = entry.size
        while left:
            cancel.check()
            block = os.read(fd, min(left, _READ_BYTES))
            if not block:
                raise _changed(entry.path)
            left -= len(block)
            yield block


def _put_members(
    stream: _Writable, folder: int, tree: Tree, manifest: BundleManifest, cancel: Cancel
) -> None:
    entries = {entry.path: entry for entry in tree.entries}
    foreign = {file.path: content for file, content in foreign_files(manifest)}
    for member in members(manifest):
        file = member.file
        if member.unpacked:
            _copy(folder, entries[file.path], file, member.name, stream, cancel)
        else:
            _put(stream, member.name, foreign[member.name])


def _copy(
    folder: int, entry: Entry, file: BundleFile, name: str, stream: _Writable, cancel: Cancel
) -> None:
    stream.write(header(name, file.size, file.mode))
    digest = sha256()
    for block in _blocks(folder, entry, cancel):
        digest.update(block)
        stream.write(block)
    if digest.hexdigest() != file.sha256:
        raise _changed(entry.path)
    stream.write(bytes(padding(file.size)))


def _put(stream: _Writable, name: str, content: bytes) -> None:
    stream.write(header(name, len(content)))
    stream.write(content)
    stream.write(bytes(padding(len(content))))


def _changed(path: str) -> TreeChanged:
    return TreeChanged(f"{shown(path)} changed while it was packed: try again when it is quiet")
