"""One archive unpacked into blobs of the store.

Each wanted file passes once: hashed while it is written, durable when it has its name. After a kill
in the middle the archive is read again, but what had its blob is not written again.

Entries are known by their number among all of the archive, so that what one is called by doesn't
depend on who wanted what of it, or below which folder.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import BinaryIO

from modelcache.api import ManifestFile
from modelcache.origins import RemoteArchive
from modelcache.store import SMALL_BYTES, Entry, Partial, Piece, Store
from modelcache.transfer.buffers import PIECE_BYTES
from modelcache.transfer.cancelling import Cancel
from modelcache.transfer.digesting import Digests, checksum, chunk_checksums
from modelcache.transfer.layering import Names
from modelcache.transfer.tarreading import Member, TarReader


@dataclass(frozen=True, slots=True)
class Unpacker:
    """What unpacking an archive has to do with the rest of the world.

    Attributes:
        store: gets the blobs.
        wants: whether the content of an entry is wanted, by its number in the archive and its path
            from the archive's folder on.
        names: counts the entries that are kept.
        room: promises so many bytes of disk for a while, but for those that it is told are on the
            disk; raises InsufficientDisk.
        buffer: of `PIECE_BYTES`, page-aligned.
        on_file: a file has its blob, also where it had one before.
        on_read: so many bytes of the archive were read.
        cancel: stops it.
    """

    store: Store
    wants: Callable[[int, str], bool]
    names: Names
    room: Callable[[int], AbstractContextManager[Callable[[int], None]]]
    buffer: memoryview
    on_file: Callable[[ManifestFile], None]
    on_read: Callable[[int], None]
    cancel: Cancel

    def unpack(self, archive: RemoteArchive, source: BinaryIO) -> tuple[Entry, ...]:
        """Read an archive, and make blobs of what is wanted.

        Returns:
            Its entries in and around its folder.

        Raises:
            BrokenArchive, UnsafePath, InsufficientDisk, Cancelled, OSError
        """
        digest = archive.blob.sha256
        assert digest is not None
        # Nothing that is ever unpacked is larger than the disk.
        most = self.store.space.measure().capacity
        reader = TarReader(_Watched(source, self), archive.compression, most=most)
        around = _ancestors(archive.folder)
        entries: list[Entry] = []
        for number, member in enumerate(reader.members()):
            self.cancel.check()
            path = inner_path(member.path, archive.folder)
            hides = member.kind in ("gone", "opaque") and member.path in around
            if path is None and not hides:
                continue
            entry = Entry(
                member.kind, member.path, member.size, target=member.target, number=number
            )
            self.names.add(entry)
            if member.kind == "file" and path and self.wants(number, path):
                file = self._file(member, path, member_identity(digest, number))
                self.on_file(file)
                entry = replace(entry, sha256=file.sha256)
            entries.append(entry)
        return tuple(entries)

    def _file(self, member: Member, path: str, identity: str) -> ManifestFile:
        """A file of the store; not written again when an earlier try, say, got as far as this."""
        known = self.store.find(identity, None, member.size)
        if known is not None:
            described = {"path": path, "origin_path": member.path, "identity": identity}
            return known.model_copy(update=described)
        partial = self.store.ingest.claim(identity, member.size, resumable=False)
        try:
            with self.room(member.size) as on_disk:
                if member.size > SMALL_BYTES:
                    on_disk(partial.allocate())
                sha256, pieces = self._write(member, partial)
                partial.finish(self.store.blobs.path(sha256))
        finally:
            partial.close()
        return ManifestFile(
            path=path,
            size=member.size,
            sha256=sha256,
            chunks=chunk_checksums(pieces),
            origin_path=member.path,
            identity=identity,
        )

    def _write(self, member: Member, partial: Partial) -> tuple[str, list[Piece]]:
        digests, pieces = Digests(member.size, None, {}), list[Piece]()
        for start in range(0, member.size, PIECE_BYTES):
            self.cancel.check()
            end = min(start + PIECE_BYTES, member.size)
            data = self.buffer[: end - start]
            member.read_into(data)
            digests.update(data)
            pieces.append(Piece(start, end, checksum(data)))
            partial.write(data, start)
        return digests.sha256, pieces


class _Watched:
    """An archive's bytes, counted; reading them ends when it is cancelled."""

    def __init__(self, source: BinaryIO, unpacker: Unpacker) -> None:
        self._source = source
        self._unpacker = unpacker

    def read(self, size: int = -1, /) -> bytes:
        self._unpacker.cancel.check()
        data = self._source.read(size)
        self._unpacker.on_read(len(data))
        return data


def member_identity(archive: str, number: int) -> str:
    """What tells an entry's content from any other: its archive's digest, and its number there."""
    return f"sha256:{archive}/{number}"


def archive_of(identity: str) -> str:
    """The digest of an archive that an entry's identity begins with."""
    return identity.rpartition("/")[0].removeprefix("sha256:")


def inner_path(path: str, folder: str) -> str | None:
    """A path in an archive from the folder on: empty for the folder itself, None for outside."""
    if not folder:
        return path
    if path == folder:
        return ""
    return path.removeprefix(f"{folder}/") if path.startswith(f"{folder}/") else None


def _ancestors(folder: str) -> Set[str]:
    """A folder and all above it, the archive's root (empty) among them."""
    parts = folder.split("/")
    return {"/".join(parts[:depth]) for depth in range(len(parts) + 1)}
