"""gs://bucket/prefix: Google Cloud Storage, or its emulator (STORAGE_EMULATOR_HOST).

Needed: storage.objects.list and storage.objects.get (roles/storage.objectViewer); to publish
storage.objects.create, and to clean up, where that is granted, storage.objects.delete
(roles/storage.objectUser has all). Who only reads asks for tokens that only read.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from io import BytesIO, FileIO
from itertools import chain
from pathlib import Path
from typing import Final

from awscrt.checksums import crc32c
from google.api_core.exceptions import NotFound as Missing
from google.api_core.exceptions import PreconditionFailed
from google.cloud.storage import Blob

from modelcache.api import SourceURI
from modelcache.compilecache.places.buckets import BucketPlace, Item
from modelcache.errors import BrokenBundle, OriginUnavailable
from modelcache.origins.credentials import Secret
from modelcache.origins.gcsclient import READ, TIMEOUT, WRITE, GcsBucket, retry
from modelcache.origins.gcserrors import CREATE, DELETE, GET, LIST
from modelcache.origins.network import Network
from modelcache.origins.paging import bounded
from modelcache.origins.protocol import HttpLocation
from modelcache.transfer.cancelling import Cancel

PART_BYTES: Final = 16 * 1024 * 1024
"""Of an upload: so much is in memory, and is sent again when a connection breaks."""

_BLOCK: Final = 1024 * 1024
_FIELDS = "items(name,size,updated),nextPageToken"


def gcs_place(uri: SourceURI, *, secret: Secret | None, network: Network) -> BucketPlace:
    """The place. Makes no request yet."""
    return BucketPlace(uri, _Bucket(uri, secret, network))


class _Bucket:
    def __init__(self, uri: SourceURI, secret: Secret | None, network: Network) -> None:
        self._uri = uri
        self._reader = GcsBucket(uri, secret=secret, network=network, scope=READ)
        self._writer = GcsBucket(uri, secret=secret, network=network, scope=WRITE)

    @property
    def host(self) -> str:
        return self._reader.host

    def items(self, prefix: str) -> Iterator[Item]:
        with self._reader.asking(LIST):
            opened = self._reader.opened()
            blobs = opened.client.list_blobs(
                opened.bucket, prefix=prefix, fields=_FIELDS, timeout=TIMEOUT, retry=retry()
            )
            for blob in chain.from_iterable(bounded(blobs.pages, str(self._uri))):
                if blob.size is None or blob.updated is None:
                    raise OriginUnavailable(f"{self._uri}: the answer lacks an object's size")
                yield Item(blob.name, blob.size, blob.updated)

    def read(self, name: str, most: int) -> bytes:
        with self._reader.asking(GET):
            blob, content = self._reader.opened().bucket.blob(name), _AtMost(most)
            with suppress(_Enough):
                # Raw: an object may be stored as gzip, which the SDK unpacks, however long it gets.
                blob.download_to_file(
                    content, end=most - 1, raw_download=True, timeout=TIMEOUT, retry=retry()
                )
            return content.getvalue()

    def has(self, name: str, path: Path) -> bool:
        with self._reader.asking(GET):
            blob = self._reader.opened().bucket.get_blob(name, timeout=TIMEOUT, retry=retry())
        if blob is None or blob.size != path.stat().st_size:
            return False
        return bool(blob.crc32c == _crc32c(path))

    def put(self, name: str, path: Path, cancel: Cancel) -> None:
        with self._writer.asking(CREATE), _Read(path, cancel) as file:
            # Again and again the same bytes: an upload that is repeated does no harm.
            self._new(name).upload_from_file(
                file,
                size=path.stat().st_size,
                content_type="application/octet-stream",
                timeout=TIMEOUT,
                retry=retry(),
                checksum="crc32c",
            )

    def put_new(self, name: str, content: bytes) -> bool:
        with self._writer.asking(CREATE):
            try:
                self._new(name).upload_from_string(
                    content,
                    content_type="application/json",
                    if_generation_match=0,
                    timeout=TIMEOUT,
                    retry=retry(),
                    checksum="crc32c",
                )
            except PreconditionFailed:
                return False
        return True

    def delete(self, name: str) -> None:
        with self._writer.asking(DELETE), suppress(Missing):
            self._new(name).delete(timeout=TIMEOUT, retry=retry())

    def abort_uploads(self, prefix: str, before: datetime) -> None:
        """Google forgets them by itself, after a week."""

    def locate(self, name: str, size: int) -> HttpLocation:
        with self._reader.asking(GET):
            opened = self._reader.opened()
            blob = opened.bucket.blob(name)
            blob.reload(timeout=TIMEOUT, retry=retry())  # also renews a token that was refused
            if blob.size != size or blob.generation is None:
                raise BrokenBundle(
                    f"{self._uri}: {name} has {blob.size} bytes, and its statement says {size}:"
                    " remove the bundle, and publish it again"
                )
            return HttpLocation(
                opened.media_url(name, blob.generation), headers=opened.headers(), renewable=True
            )

    def _new(self, name: str) -> Blob:
        return self._writer.opened().bucket.blob(name, chunk_size=PART_BYTES)


class _Read(FileIO):
    """A file as it is read for an upload: piece by piece, until that is cancelled."""

    def __init__(self, path: Path, cancel: Cancel) -> None:
        super().__init__(path)
        self._cancel = cancel

    def read(self, size: int | None = -1, /) -> bytes:
        self._cancel.check()
        return super().read(size)


class _Enough(Exception):
    """No more is wanted."""


class _AtMost(BytesIO):
    """Takes so many bytes; what is sent beyond them is not even kept."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        room = self._most - self.tell()
        count = super().write(data[:room])
        if len(data) > room:
            raise _Enough
        return count


def _crc32c(path: Path) -> str:
    """A file's checksum, as Google writes that of an object."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            checksum = crc32c(block, checksum)
    return b64encode(checksum.to_bytes(4, "big")).decode()
