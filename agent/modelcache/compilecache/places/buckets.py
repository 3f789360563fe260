"""What places in buckets have in common, whoever's bucket it is.

A bundle is two objects below `<prefix>/<key>/<digest>/`. The archive comes first; the envelope
last, and only where there is none: that makes the bundle, and of two publishers one is told that it
was there. An archive without an envelope is what a publisher left that was killed; after a day the
next publisher of the key removes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Protocol

import structlog

from modelcache.api import SourceURI
from modelcache.compilecache.bundles.local import (
    ARCHIVE_NAMES,
    ENVELOPE_NAME,
    LocalBundle,
    archive_name,
)
from modelcache.compilecache.bundles.statement import MAX_ENVELOPE_BYTES, Archive
from modelcache.compilecache.places.protocol import (
    LEFTOVER_SECONDS,
    MAX_NAMES,
    Placed,
    folder_of,
    is_hex,
    newest_first,
)
from modelcache.compilecache.places.whole import require_whole
from modelcache.errors import AuthFailed, BrokenBundle, ModelCacheError, NotFound, UnsafePath
from modelcache.origins.protocol import HttpLocation
from modelcache.transfer.cancelling import Cancel

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """One object: its name, bytes, and when it was written."""

    name: str
    size: int
    modified: datetime


class Bucket(Protocol):
    """What a place needs of a bucket. All methods raise ModelCacheErrors."""

    @property
    def host(self) -> str:
        """The host that is asked; empty as long as it was not asked for anything."""
        ...

    def items(self, prefix: str) -> Iterator[Item]:
        """The objects whose names begin so."""
        ...

    def read(self, name: str, most: int) -> bytes:
        """An object's content, at most `most` bytes of it."""
        ...

    def has(self, name: str, path: Path) -> bool:
        """Whether there is an object with a file's content, where that can be told without reading
        it: where objects can be created, but not replaced, a second upload would be refused."""
        ...

    def put(self, name: str, path: Path, cancel: Cancel) -> None:
        """Store a file's content, in parts where it is large, and in bounded memory."""
        ...

    def put_new(self, name: str, content: bytes) -> bool:
        """Store a small object, unless there is one of the name: then it is False."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object. One that is not there is no error."""
        ...

    def abort_uploads(self, prefix: str, before: datetime) -> None:
        """Throw away parts of uploads that were begun before then, where a bucket keeps such."""
        ...

    def locate(self, name: str, size: int) -> HttpLocation:
        """Where an object's bytes are."""
        ...


class BucketPlace:
    """A prefix of a bucket."""

    def __init__(self, uri: SourceURI, bucket: Bucket) -> None:
        """`uri`: its path is the prefix; what lies beside bundles there is passed over."""
        self._uri = uri
        self._bucket = bucket
        self._prefix = f"{uri.path.strip('/')}/" if uri.path.strip("/") else ""

    @property
    def uri(self) -> str:
        """The place's URI."""
        return str(self._uri)

    @property
    def host(self) -> str:
        """The host that is asked; empty as long as it was not asked for anything."""
        return self._bucket.host

    def publish(self, bundle: LocalBundle, cancel: Cancel | None = None) -> bool:
        """Upload a bundle. See `Place.publish`."""
        cancel = cancel or Cancel()
        statement = bundle.statement
        key = statement.key.digest
        folder = f"{self._prefix}{folder_of(key, statement.digest)}"
        there = list(self._items(key))
        if any(item.name == f"{folder}/{ENVELOPE_NAME}" for item in there):
            return False
        require_whole(bundle, cancel)
        archive = f"{folder}/{archive_name(statement.archive)}"
        begun = any(item.name == archive for item in there)
        if not (begun and self._bucket.has(archive, bundle.archive)):
            self._bucket.put(archive, bundle.archive, cancel)
        first = self._bucket.put_new(f"{folder}/{ENVELOPE_NAME}", bundle.envelope_bytes)
        self._sweep(key, folder, there)
        return first

    def generations(self, key: str, most: int = MAX_NAMES) -> tuple[Placed, ...]:
        """The bundles of a key. See `Place.generations`."""
        return newest_first(self._placed(self._items(key)))[:most] if is_hex(key) else ()

    def keys(self) -> tuple[str, ...]:
        """The keys. See `Place.keys`."""
        return tuple(sorted({placed.key for placed in self._placed(self._items(""))}))

    def find(self, digest: str, key: str = "") -> Placed | None:
        """The bundle of a digest. See `Place.find`."""
        found = (placed for placed in self._placed(self._items(key)) if placed.digest == digest)
        return next(found, None)

    def envelope(self, placed: Placed) -> bytes:
        """The envelope. See `Place.envelope`."""
        name = f"{self._prefix}{placed.folder}/{ENVELOPE_NAME}"
        content = self._bucket.read(name, MAX_ENVELOPE_BYTES + 1)
        if len(content) > MAX_ENVELOPE_BYTES:
            raise BrokenBundle(f"{self._uri}: {name} is longer than any envelope: remove it")
        return content

    def locate(self, placed: Placed, archive: Archive) -> HttpLocation:
        """The archive's URL."""
        name = f"{self._prefix}{placed.folder}/{archive_name(archive)}"
        return self._bucket.locate(name, archive.size)

    def remove(self, placed: Placed) -> None:
        """Remove a bundle: the envelope first. See `Place.remove`."""
        for name in (ENVELOPE_NAME, *ARCHIVE_NAMES.values()):
            self._bucket.delete(f"{self._prefix}{placed.folder}/{name}")

    def _items(self, key: str) -> Iterator[Item]:
        """All objects of a key; of the whole place, where it is empty."""
        prefix = f"{self._prefix}{key}/" if key else self._prefix
        found = self._bucket.items(prefix)
        yield from islice(found, 2 * MAX_NAMES)
        if next(found, None) is not None:
            raise UnsafePath(
                f"{self._uri} has more than {2 * MAX_NAMES:,} objects: give bundles a prefix of"
                " their own"
            )

    def _placed(self, items: Iterable[Item]) -> list[Placed]:
        """The bundles among objects: those with an envelope."""
        envelopes: dict[tuple[str, str], datetime] = {}
        sizes: dict[tuple[str, str], int] = {}
        for item in items:
            parts = item.name.removeprefix(self._prefix).split("/")
            if len(parts) != 3 or not is_hex(parts[0]) or not is_hex(parts[1]):
                continue
            place = parts[0], parts[1]
            if parts[2] == ENVELOPE_NAME:
                envelopes[place] = item.modified
            elif parts[2] in ARCHIVE_NAMES.values():
                sizes[place] = item.size
        return [
            Placed(f"sha256:{digest}", key, created, sizes.get((key, digest), 0))
            for (key, digest), created in envelopes.items()
        ]

    def _sweep(self, key: str, own: str, there: list[Item]) -> None:
        """Remove what publishers of the key left that were killed, if we may. The bundle is there
        already, so nothing that goes wrong here is its publisher's failure."""
        before = datetime.now(UTC) - timedelta(seconds=LEFTOVER_SECONDS)
        try:
            if left := _leftovers(there, own, before):
                # Again: while this one was sent another may have finished what was left there.
                for item in left & _leftovers(self._items(key), own, before):
                    self._bucket.delete(item.name)
            self._bucket.abort_uploads(f"{self._prefix}{key}/", before)
        except (AuthFailed, NotFound):
            return
        except ModelCacheError as error:
            log.warning("place.not_swept", place=str(self._uri), message=str(error))


def _leftovers(items: Iterable[Item], own: str, before: datetime) -> set[Item]:
    """Archives without an envelope that were there before a moment, but those in one folder."""
    whole, archives = {own}, []
    for item in items:
        folder, _, name = item.name.rpartition("/")
        if name == ENVELOPE_NAME:
            whole.add(folder)
        elif name in ARCHIVE_NAMES.values() and item.modified < before:
            archives.append((folder, item))
    return {item for folder, item in archives if folder not in whole}
