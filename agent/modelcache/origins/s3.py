"""s3://bucket/prefix: Amazon S3, and what speaks its language (AWS_ENDPOINT_URL_S3)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from functools import partial
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote, urlsplit

from modelcache.api import SourceURI
from modelcache.errors import NotFound, OriginChanged
from modelcache.origins.credentials import Secret
from modelcache.origins.names import shown
from modelcache.origins.network import Network
from modelcache.origins.paging import bounded
from modelcache.origins.protocol import HttpLocation, RemoteFile, Revision
from modelcache.origins.s3client import S3Bucket, is_aws

URL_SECONDS: Final = 3600
"""The life of a presigned URL; shorter where the credentials themselves expire earlier."""
SMALL_BYTES: Final = 4 * 1024 * 1024
"""Up to which an object is located without asking: its checksums come with it."""

_CHECKSUMS = (
    ("sha256", "ChecksumSHA256", 32),
    ("sha1", "ChecksumSHA1", 20),
    ("crc64nvme", "ChecksumCRC64NVME", 8),
    ("crc32c", "ChecksumCRC32C", 4),
    ("crc32", "ChecksumCRC32", 4),
)
_MD5 = re.compile(r"[0-9a-f]{32}")


class S3Origin:
    """One object, the objects below a prefix, or a whole bucket.

    Credentials are the secret's, which must name the endpoint's host, or those of boto3's default
    chain (environment, profile, pod identity, instance). Needed: s3:ListBucket and s3:GetObject.
    """

    def __init__(
        self,
        uri: SourceURI,
        *,
        secret: Secret | None = None,
        network: Network | None = None,
        mirrored: bool = False,
    ) -> None:
        """`mirrored`: the bytes may come from elsewhere, so their answers' checksums count for
        nothing: the bucket is asked for those of small objects, too, and for one that can't be
        forged."""
        self._mirrored = mirrored
        self._small_bytes = 0 if mirrored else SMALL_BYTES
        self._uri = uri
        self._bucket = uri.authority
        self._s3 = S3Bucket(uri, secret=secret, network=network)

    @property
    def host(self) -> str:
        """The host that `locate` asks; empty as long as it was not asked for anything."""
        return self._s3.host

    def resolve(self) -> Revision:
        """What the prefix holds now.

        `models/llama` means all objects below `models/llama/`, or where there are none the object
        of that name; never `models/llama-2/...`. The zero-byte keys with a trailing slash that
        consoles make for folders are left out.

        Returns:
            The revision's id is a digest over the path, size and ETag of each object.
        """
        prefix = self._uri.path
        if prefix and not prefix.endswith("/"):
            prefix += "/"
        with self._s3.asking():
            files = list(self._below(prefix))
            if not files and prefix and prefix != self._uri.path:
                files = [self._single(self._uri.path)]
        if not files:
            raise NotFound(f"{self._uri} holds no objects: check the bucket and the prefix")
        files.sort(key=lambda file: file.path)
        digest = sha256()
        for file in files:
            digest.update(f"{file.path}\0{file.size}\0{file.etag}\n".encode())
        return Revision(id=digest.hexdigest(), files=tuple(files))

    def locate(self, file: RemoteFile) -> HttpLocation:
        """A presigned URL for the object as it was resolved, and its checksums.

        A small object, which comes in one answer, says in that answer what else would cost a
        request of its own.
        """
        etag = f'"{file.etag}"'
        if file.size <= self._small_bytes:
            return self._locate_small(file, etag)
        with self._s3.asking(changed=_replaced(self._uri, file)):
            client = self._s3.client()
            head = client.head_object(
                Bucket=self._bucket, Key=file.origin_path, IfMatch=etag, ChecksumMode="ENABLED"
            )
            if head["ContentLength"] != file.size or head["ETag"].strip('"') != file.etag:
                # For servers that ignore If-Match.
                raise OriginChanged(_replaced(self._uri, file))
            what = {"Bucket": self._bucket, "Key": file.origin_path}
            # "null" is what an object is called that is older than the bucket's versioning.
            if head.get("VersionId", "null") != "null":
                what["VersionId"] = head["VersionId"]
            url = client.generate_presigned_url("get_object", Params=what, ExpiresIn=URL_SECONDS)
        return HttpLocation(
            url,
            if_match=etag,
            checksums=_checksums(head, self._bucket, strong=self._mirrored),
            renewable=True,
            mirror_path=f"/{self._bucket}/{quote(file.origin_path)}",
        )

    def _locate_small(self, file: RemoteFile, etag: str) -> HttpLocation:
        what = {"Bucket": self._bucket, "Key": file.origin_path, "ChecksumMode": "ENABLED"}
        with self._s3.asking():
            url = self._s3.client().generate_presigned_url(
                "get_object", Params=what, ExpiresIn=URL_SECONDS
            )
        return HttpLocation(
            url,
            headers={"x-amz-checksum-mode": "ENABLED"},
            if_match=etag,
            renewable=True,
            pinned=True,
            checksums_of=partial(_checksums_of, bucket=self._bucket),
        )

    def _below(self, prefix: str) -> Iterator[RemoteFile]:
        pages = self._s3.client().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=self._bucket, Prefix=prefix)
        for page in bounded(found, str(self._uri)):
            for each in page.get("Contents", ()):
                key, size = each["Key"], each["Size"]
                if not (key.endswith("/") and size == 0):
                    yield self._file(key.removeprefix(prefix), key, size, each["ETag"])

    def _single(self, key: str) -> RemoteFile:
        head = self._s3.client().head_object(Bucket=self._bucket, Key=key)
        return self._file(key.rpartition("/")[2], key, head["ContentLength"], head["ETag"])

    def _file(self, path: str, key: str, size: int, quoted_etag: str) -> RemoteFile:
        etag = quoted_etag.strip('"')
        endpoint = self._s3.client().meta.endpoint_url
        where = "aws" if is_aws(endpoint) else urlsplit(endpoint).netloc
        identity = f"s3:{where}/{self._bucket}/{key}:{etag}:{size}"
        return RemoteFile(path, key, size, identity, etag=etag)


def _checksums_of(headers: Mapping[str, str], bucket: str) -> dict[str, str]:
    """The same from the headers of an answer with the whole object."""
    named = {key: f"x-amz-checksum-{algorithm}" for algorithm, key, _ in _CHECKSUMS}
    named |= {
        "ETag": "etag",
        "ChecksumType": "x-amz-checksum-type",
        "ServerSideEncryption": "x-amz-server-side-encryption",
        "SSECustomerAlgorithm": "x-amz-server-side-encryption-customer-algorithm",
    }
    found = {key: value for key, name in named.items() if (value := headers.get(name))}
    return _checksums(found, bucket) if "ETag" in found else {}


def _checksums(head: Mapping[str, Any], bucket: str, *, strong: bool = False) -> dict[str, str]:
    """The checksums of the whole object, in hex.

    Those of a multipart upload may be over its parts only ("composite", with the number of parts
    behind a hyphen), and say nothing about the bytes in a row:
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
    SHA-1 and MD5 cost as much as all the rest of a fetch: they are for objects with nothing else;
    `strong`: with nothing else that can't be forged, such as a CRC.
    """
    found = {}
    # Servers older than the type give a composite one for every multipart upload.
    by_etag = "COMPOSITE" if "-" in head["ETag"] else "FULL_OBJECT"
    if head.get("ChecksumType", by_etag) == "FULL_OBJECT":
        for algorithm, key, length in _CHECKSUMS:
            value = _decoded(head.get(key))
            if len(value) == length:
                found[algorithm] = value.hex()
    if found.keys() & {"sha256"} if strong else found.keys() - {"sha1"}:
        found.pop("sha1", None)
    elif "sha1" not in found and (md5 := _md5(head, bucket)):
        found["md5"] = md5
    return found


def _decoded(value: object) -> bytes:
    try:
        return base64.b64decode(str(value or ""), validate=True)
    except binascii.Error:
        return b""


def _md5(head: Mapping[str, Any], bucket: str) -> str | None:
    """The ETag where it is the MD5 of the content.

    That is: one upload, no encryption or SSE-S3, not in a directory bucket.
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    """
    etag = head["ETag"].strip('"')
    plain = head.get("ServerSideEncryption", "AES256") == "AES256"
    if not _MD5.fullmatch(etag) or not plain or head.get("SSECustomerAlgorithm"):
        return None
    return None if bucket.endswith("--x-s3") else etag


def _replaced(uri: SourceURI, file: RemoteFile) -> str:
    return f"{uri}: {shown(file.path)} was replaced or removed after it had been resolved"
