"""gs://bucket/prefix: Google Cloud Storage, or its emulator (STORAGE_EMULATOR_HOST).

Google's SDK finds the credentials and lists; the bytes are fetched by our own engine, from the JSON
API's media URLs. They name the object's generation, so they give its bytes or none.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from hashlib import sha256
from itertools import chain
from urllib.parse import quote, urlsplit

from google.cloud.storage import Blob

from modelcache.api import SourceURI
from modelcache.errors import NotFound, OriginChanged, OriginUnavailable
from modelcache.origins.credentials import Secret
from modelcache.origins.gcsclient import TIMEOUT, GcsBucket, is_google, retry
from modelcache.origins.gcserrors import GET, LIST
from modelcache.origins.names import shown
from modelcache.origins.network import Network
from modelcache.origins.paging import bounded
from modelcache.origins.protocol import HttpLocation, RemoteFile, Revision

_FIELDS = "items(name,size,generation,crc32c,md5Hash,contentEncoding),nextPageToken"


class GcsOrigin:
    """One object, the objects below a prefix, or a whole bucket.

    Credentials are the secret's, which must name the endpoint's host, or the application's default
    ones (GOOGLE_APPLICATION_CREDENTIALS, Workload Identity, the node's service account); where
    there are none, the bucket is asked as a public one. They are read-only, and never sent to an
    emulator. Needed: storage.objects.list and storage.objects.get (roles/storage.objectViewer).
    """

    def __init__(
        self,
        uri: SourceURI,
        *,
        secret: Secret | None = None,
        network: Network | None = None,
        mirrored: bool = False,
    ) -> None:
        """Make no request yet. The secret has `KEY`, and perhaps `PROJECT`.

        `mirrored`: the bytes may come from elsewhere, and need a checksum that can't be forged.
        """
        self._mirrored = mirrored
        self._uri = uri
        self._gcs = GcsBucket(uri, secret=secret, network=network)
        self._listed: dict[str, str | None] = {}
        """Objects that were listed and not located since: their Content-Encoding."""

    def resolve(self) -> Revision:
        """What the prefix holds now.

        `models/llama` means all objects below `models/llama/`, or where there are none the object
        of that name; never `models/llama-2/...`. The empty objects with a trailing slash that
        consoles make for folders are left out.

        Returns:
            The revision's id is a digest over the path, size and generation of each object.
        """
        prefix = self._uri.path
        if prefix and not prefix.endswith("/"):
            prefix += "/"
        with self._gcs.asking(LIST):
            files = list(self._below(prefix))
        if not files and prefix and prefix != self._uri.path:
            with self._gcs.asking(GET):
                files = [self._single(self._uri.path)]
        if not files:
            raise NotFound(f"{self._uri} holds no objects: check the bucket and the prefix")
        files.sort(key=lambda file: file.path)
        digest = sha256()
        for file in files:
            digest.update(f"{file.path}\0{file.size}\0{file.etag}\n".encode())
        return Revision(id=digest.hexdigest(), files=tuple(files))

    def locate(self, file: RemoteFile) -> HttpLocation:
        """The object's media at the generation that was resolved, with a token that is good.

        Right after it was listed nothing is asked; again, it is: that also renews a token that was
        refused.
        """
        assert file.etag is not None
        generation = int(file.etag)
        with self._gcs.asking(GET, changed=_replaced(self._uri, file)):
            opened = self._gcs.opened()
            if file.origin_path in self._listed and opened.credentials.valid:
                encoding = self._listed.pop(file.origin_path)
            else:
                blob = opened.bucket.blob(file.origin_path, generation=generation)
                blob.reload(timeout=TIMEOUT, retry=retry())
                if (blob.size, blob.generation) != (file.size, generation):
                    # For servers that take no notice of the generation.
                    raise OriginChanged(_replaced(self._uri, file))
                encoding = blob.content_encoding
            headers = opened.headers()
        if encoding and encoding != "identity":
            if not file.path.endswith((".gz", ".tgz")):
                raise NotFound(
                    f"{self._uri}: {shown(file.path)} is stored compressed (Content-Encoding"
                    f" {shown(encoding, 20)}), and neither its size nor its checksums are those of"
                    " what an engine would read: upload it uncompressed"
                )
            # Otherwise it would be decompressed on the way: other bytes, of no known size.
            # https://cloud.google.com/storage/docs/transcoding
            headers["Accept-Encoding"] = encoding
        return HttpLocation(
            opened.media_url(file.origin_path, generation),
            headers=headers,
            checksums=file.checksums,
            renewable=True,
            pinned=True,
            # As the XML API has it. Who caches by URL keeps the generations apart.
            mirror_path=f"/{self._uri.authority}/{quote(file.origin_path)}?generation={generation}",
        )

    def _below(self, prefix: str) -> Iterator[RemoteFile]:
        opened = self._gcs.opened()
        blobs = opened.client.list_blobs(
            opened.bucket, prefix=prefix, fields=_FIELDS, timeout=TIMEOUT, retry=retry()
        )
        for blob in chain.from_iterable(bounded(blobs.pages, str(self._uri))):
            if not (blob.name.endswith("/") and blob.size == 0):
                yield self._file(blob.name.removeprefix(prefix), blob)

    def _single(self, name: str) -> RemoteFile:
        blob = self._gcs.opened().bucket.blob(name)
        blob.reload(timeout=TIMEOUT, retry=retry())
        return self._file(name.rpartition("/")[2], blob)

    def _file(self, path: str, blob: Blob) -> RemoteFile:
        if blob.size is None or blob.generation is None:
            raise OriginUnavailable(f"{self._uri}: the answer lacks an object's size or generation")
        endpoint = self._gcs.opened().endpoint
        where = "google" if is_google(endpoint) else urlsplit(endpoint).netloc
        name, generation = blob.name, str(blob.generation)
        self._listed[name] = blob.content_encoding
        return RemoteFile(
            path,
            name,
            blob.size,
            f"gs:{where}/{self._uri.authority}/{name}#{generation}:{blob.size}",
            checksums=_checksums(blob, strong=self._mirrored),
            etag=generation,
        )


def _checksums(blob: Blob, *, strong: bool) -> dict[str, str]:
    """The checksums of the content as it is stored, in hex.

    Every object has a CRC32C, unless a server is not Google's. MD5, which objects made of parts
    don't have, costs more than all the rest of a fetch: it is for objects with nothing else;
    `strong`: that can't be forged.
    """
    checksums: dict[str, str] = {}
    for algorithm, value, length in (("crc32c", blob.crc32c, 4), ("md5", blob.md5_hash, 16)):
        try:
            found = base64.b64decode(value or "", validate=True)
        except binascii.Error:
            continue
        if len(found) == length and (strong or not checksums):
            checksums[algorithm] = found.hex()
    return checksums


def _replaced(uri: SourceURI, file: RemoteFile) -> str:
    return f"{uri}: {shown(file.path)} was replaced or removed after it had been resolved"
