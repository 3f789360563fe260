"""What is still good of a blob in quarantine becomes the beginning of its next fetch.

Chunk by chunk it is compared with the checksums of its manifest and written into a partial file, as
if an earlier run had fetched it: the fetch goes on with what is missing, and compares the digest of
the whole, as always. The content is copied: the quarantined file is a pod's still, through a view
that it has mounted.
"""

from __future__ import annotations

from awscrt.checksums import combine_crc32c

from modelcache.api.manifest import CHUNK_BYTES
from modelcache.host.coldread import PIECE_BYTES, ColdFile
from modelcache.origins import RemoteFile
from modelcache.store import Busy, Partial, Piece, Quarantined, Reservation, Store, blob_key
from modelcache.transfer.cancelling import Cancel
from modelcache.transfer.digesting import checksum


def salvageable(store: Store, remote: RemoteFile) -> Quarantined | None:
    """What is in quarantine of a file, where its next fetch can go on with it.

    Not of a file whose whole content nothing is promised of: from parts that were never together at
    the origin there would come a file that nobody can tell from a right one.
    """
    if remote.size <= CHUNK_BYTES:
        return None  # its only chunk is the bad one
    if not (remote.sha256 or remote.checksums):
        return None
    found = store.quarantine.find(remote.identity, remote.sha256, remote.size)
    return found if found is not None and found.file and found.file.chunks else None


def salvage(
    store: Store, remote: RemoteFile, found: Quarantined, cancel: Cancel, reserved: Reservation
) -> int:
    """Take over the good chunks of a quarantined file; how many bytes.

    A file that somebody else is fetching is left to them. What can't be read is not good.

    Raises:
        InsufficientDisk, Cancelled: what was taken over stays.
    """
    key = blob_key(remote.identity, remote.sha256)
    try:
        partial = store.ingest.claim(key, remote.size, owner=found.model)
    except Busy:
        return 0
    try:
        reserved.consume(partial.allocate())
        return _copy(found, partial, cancel)
    finally:
        partial.close()


def _copy(found: Quarantined, partial: Partial, cancel: Cancel) -> int:
    assert found.file is not None
    there = {piece.start for piece in partial.pieces}
    total = 0
    try:
        with ColdFile(found.data) as source:
            for index, promised in enumerate(found.file.chunks):
                start = index * CHUNK_BYTES
                end = min(start + CHUNK_BYTES, partial.size)
                places = range(start, end, PIECE_BYTES)
                if all(place in there for place in places):
                    continue  # by an earlier run
                pieces = _copy_chunk(source, partial, places, cancel)
                if sum(piece.end - piece.start for piece in pieces) != end - start:
                    continue
                if f"{_combined(pieces):08x}" != promised:
                    continue
                for piece in pieces:
                    assert piece.crc is not None
                    partial.record(piece.start, piece.end, piece.crc)
                total += end - start
    except OSError:
        pass  # it went away, or the disk fails: the rest is fetched
    return total


def _copy_chunk(source: ColdFile, partial: Partial, places: range, cancel: Cancel) -> list[Piece]:
    """Write a chunk, bad or good: only what is recorded counts."""
    pieces = []
    for place in places:
        cancel.check()
        try:
            data = source.read(place)
        except OSError:
            return []
        data = data[: partial.size - place]
        partial.write(data, place)
        pieces.append(Piece(place, place + len(data), checksum(data)))
    return pieces


def _combined(pieces: list[Piece]) -> int:
    crc = 0
    for piece in pieces:
        assert piece.crc is not None
        crc = combine_crc32c(crc, piece.crc, piece.end - piece.start)
    return crc
