"""s3://bucket/prefix: Amazon S3, and what speaks its language.

Needed: s3:ListBucket, s3:GetObject; to publish s3:PutObject and s3:AbortMultipartUpload; and to
clean up, where that is granted, s3:DeleteObject and s3:ListBucketMultipartUploads.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.exceptions import ClientError
from s3transfer.exceptions import CancelledError

from modelcache.api import SourceURI
from modelcache.compilecache.places.buckets import BucketPlace, Item
from modelcache.errors import OriginUnavailable
from modelcache.origins.credentials import Secret
from modelcache.origins.network import Network
from modelcache.origins.paging import bounded
from modelcache.origins.protocol import HttpLocation
from modelcache.origins.s3 import URL_SECONDS
from modelcache.origins.s3client import S3Bucket
from modelcache.transfer.cancelling import Cancel

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

PART_BYTES: Final = 64 * 1024 * 1024
"""Of a large archive: S3 takes 10,000 parts. They are read from the file as they are sent."""

_NEEDED = "s3:ListBucket, s3:GetObject and, to publish, s3:PutObject"
_CONFLICT_TRIES = 3


def s3_place(uri: SourceURI, *, secret: Secret | None, network: Network) -> BucketPlace:
    """The place. Makes no request yet."""
    return BucketPlace(uri, _Bucket(uri, secret, network))


class _Bucket:
    def __init__(self, uri: SourceURI, secret: Secret | None, network: Network) -> None:
        self._uri = uri
        self._name = uri.authority
        self._s3 = S3Bucket(uri, secret=secret, network=network, needed=_NEEDED)
        # The default of ten threads would be felt on a node that serves; so would the other client,
        # which boto3 takes by itself on machines with much bandwidth, as most with GPUs have.
        self._parts = TransferConfig(
            multipart_threshold=PART_BYTES,
            multipart_chunksize=PART_BYTES,
            max_concurrency=2,
            preferred_transfer_client="classic",
        )

    @property
    def host(self) -> str:
        return self._s3.host

    def items(self, prefix: str) -> Iterator[Item]:
        with self._s3.asking():
            pages = self._client().get_paginator("list_objects_v2")
            found = pages.paginate(Bucket=self._name, Prefix=prefix)
            for page in bounded(found, str(self._uri)):
                for each in page.get("Contents", ()):
                    yield Item(each["Key"], each["Size"], each["LastModified"])

    def read(self, name: str, most: int) -> bytes:
        with self._s3.asking():
            body = self._client().get_object(Bucket=self._name, Key=name)["Body"]
            try:
                return body.read(most)
            finally:
                body.close()

    def has(self, name: str, path: Path) -> bool:  # noqa: ARG002
        return False  # S3 says no checksum of the whole content; who may write may write again

    def put(self, name: str, path: Path, cancel: Cancel) -> None:
        cancel.check()
        # At its end it waits for its threads: else a process would, when it ends.
        with self._s3.asking(), create_transfer_manager(self._client(), self._parts) as manager:
            upload = manager.upload(str(path), self._name, name)
            try:
                with cancel.calling(upload.cancel):
                    upload.result()
            except CancelledError:
                cancel.check()
                raise

    def put_new(self, name: str, content: bytes) -> bool:
        condition: dict[str, Any] = {"IfNoneMatch": "*"}
        for left in reversed(range(_CONFLICT_TRIES)):
            with self._s3.asking():
                try:
                    self._client().put_object(
                        Bucket=self._name, Key=name, Body=content, **condition
                    )
                    return True
                except ClientError as error:
                    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                    if status == 412:
                        return False
                    if status == 501 and condition:
                        # A server that knows no conditions: the same digest is the same bundle,
                        # so that the last writer changes nothing but the signatures.
                        condition = {}
                    elif status != 409 or not left:  # another is writing it at this moment
                        raise
        raise OriginUnavailable(f"{self._uri}: {name} is being written by others")

    def delete(self, name: str) -> None:
        with self._s3.asking():
            self._client().delete_object(Bucket=self._name, Key=name)

    def abort_uploads(self, prefix: str, before: datetime) -> None:
        with self._s3.asking():
            client = self._client()
            pages = client.get_paginator("list_multipart_uploads")
            found = pages.paginate(Bucket=self._name, Prefix=prefix)
            for page in bounded(found, str(self._uri)):
                for each in page.get("Uploads", ()):
                    if each["Initiated"] < before:
                        client.abort_multipart_upload(
                            Bucket=self._name, Key=each["Key"], UploadId=each["UploadId"]
                        )

    def locate(self, name: str, size: int) -> HttpLocation:  # noqa: ARG002 - a digest checks it
        with self._s3.asking():
            url = self._client().generate_presigned_url(
                "get_object", Params={"Bucket": self._name, "Key": name}, ExpiresIn=URL_SECONDS
            )
        return HttpLocation(url, renewable=True)

    def _client(self) -> S3Client:
        return self._s3.client()
