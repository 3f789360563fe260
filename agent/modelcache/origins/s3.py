"""s3://bucket/prefix: Amazon S3, and what speaks its language (AWS_ENDPOINT_URL_S3)."""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote, urlsplit

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ProxyConnectionError
from botocore.session import get_session

from modelcache.api import SourceURI
from modelcache.errors import (
    ModelCacheError,
    NotFound,
    OriginChanged,
    OriginUnavailable,
    UsageError,
)
from modelcache.origins.credentials import Secret
from modelcache.origins.names import shown
from modelcache.origins.network import Network
from modelcache.origins.protocol import HttpLocation, RemoteFile, Revision
from modelcache.origins.s3errors import from_client_error, from_sdk_error

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

URL_SECONDS: Final = 3600
"""The life of a presigned URL; shorter where the credentials themselves expire earlier."""
SMALL_BYTES: Final = 4 * 1024 * 1024
"""Up to which an object is located without asking: its checksums come with it."""
ATTEMPTS: Final = 3
"""How often boto3 sends a request that meets a server error; the agent itself tries again later."""

_CHECKSUMS = (
    ("sha256", "ChecksumSHA256", 32),
    ("sha1", "ChecksumSHA1", 20),
    ("crc64nvme", "ChecksumCRC64NVME", 8),
    ("crc32c", "ChecksumCRC32C", 4),
    ("crc32", "ChecksumCRC32", 4),
)
_Style = Literal["path", "virtual"]
_MD5 = re.compile(r"[0-9a-f]{32}")
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


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
        self._network = network or Network()
        self._mirrored = mirrored
        self._small_bytes = 0 if mirrored else SMALL_BYTES
        self._uri = uri
        self._bucket = uri.authority
        self._secret = secret
        self._opening = Lock()
        self._client: S3Client | None = None
        self._endpoint = ""

    @property
    def host(self) -> str:
        """The host that `locate` asks; empty as long as it was not asked for anything."""
        return urlsplit(self._endpoint).netloc

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
        with self._asking():
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
        with self._asking(changed=file):
            client = self._open()
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
        with self._asking():
            url = self._open().generate_presigned_url(
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

    def _open(self) -> S3Client:
        with self._opening:
            if self._client is None:
                session = self._session()
                # Virtual, not auto: that presigns for the global endpoint, which only redirects
                # for buckets of the newer regions. A dot in the name fits no certificate of AWS.
                style: _Style = "path" if "." in self._bucket else "virtual"
                client = _connect(session, style)
                if style == "virtual" and not _is_aws(client.meta.endpoint_url):
                    # Few S3-compatible servers have a wildcard in their DNS name and certificate.
                    style = "path"
                    client = _connect(session, style)
                scheme, _, place = client.meta.endpoint_url.partition("://")
                bucket = f"{self._bucket}." if style == "virtual" else ""
                self._endpoint = f"{scheme}://{bucket}{place}"
                if self._network.has_proxies:
                    client = _connect(session, style, self._proxies())
                if self._secret is not None:
                    self._secret.require(client.meta.endpoint_url)
                self._client = client
            return self._client

    def _proxies(self) -> dict[str, str]:
        """botocore's own reading of NO_PROXY knows suffixes only, no networks."""
        proxy = self._network.proxy(self._endpoint)
        return {urlsplit(self._endpoint).scheme: proxy.url} if proxy else {}

    def _session(self) -> Session:
        core = get_session()
        # Not by the client's `verify`: STS, whom credentials may come from, is asked as well.
        core.set_config_variable("ca_bundle", self._network.ca_file)
        if self._secret is None:
            return Session(botocore_session=core)
        return Session(
            botocore_session=core,
            aws_access_key_id=self._secret.need("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=self._secret.need("AWS_SECRET_ACCESS_KEY"),
            aws_session_token=self._secret.get("AWS_SESSION_TOKEN"),
            region_name=self._secret.get("AWS_REGION"),
        )

    def _refused_by_proxy(self, error: ProxyConnectionError) -> ModelCacheError:
        """botocore's message has not even the status; urllib3's, below it, has."""
        text = str(error.__cause__ or error.__context__)
        refusal = self._network.refusal(self._endpoint, text)
        return refusal or from_sdk_error(error, str(self._uri))

    def _below(self, prefix: str) -> Iterator[RemoteFile]:
        pages = self._open().get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
            for found in page.get("Contents", ()):
                key, size = found["Key"], found["Size"]
                if not (key.endswith("/") and size == 0):
                    yield self._file(key.removeprefix(prefix), key, size, found["ETag"])

    def _single(self, key: str) -> RemoteFile:
        head = self._open().head_object(Bucket=self._bucket, Key=key)
        return self._file(key.rpartition("/")[2], key, head["ContentLength"], head["ETag"])

    def _file(self, path: str, key: str, size: int, quoted_etag: str) -> RemoteFile:
        etag = quoted_etag.strip('"')
        endpoint = self._open().meta.endpoint_url
        where = "aws" if _is_aws(endpoint) else urlsplit(endpoint).netloc
        identity = f"s3:{where}/{self._bucket}/{key}:{etag}:{size}"
        return RemoteFile(path, key, size, identity, etag=etag)

    @contextmanager
    def _asking(self, changed: RemoteFile | None = None) -> Iterator[None]:
        """A context for boto3's requests: their errors come out as ours.

        Args:
            changed: the file whose absence or other ETag means that it was replaced.
        """
        try:
            yield
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if changed is not None and status in (404, 412):
                raise OriginChanged(_replaced(self._uri, changed)) from error
            raise from_client_error(error, str(self._uri)) from error
        except ProxyConnectionError as error:
            raise self._refused_by_proxy(error) from error
        except BotoCoreError as error:
            raise from_sdk_error(error, str(self._uri)) from error
        except KeyError as error:
            raise OriginUnavailable(f"{self._uri}: the answer lacks {error}") from error
        except ValueError as error:
            # The one thing that botocore says this way.
            raise UsageError(f"AWS_ENDPOINT_URL_S3 or AWS_REGION is wrong: {error}") from error


def _connect(session: Session, style: _Style, proxies: dict[str, str] | None = None) -> S3Client:
    client: S3Client = session.client(
        "s3",
        # botocore 1.44 reads AWS_DEFAULT_REGION only; all other AWS SDKs read AWS_REGION.
        region_name=session.region_name or os.environ.get("AWS_REGION"),
        config=Config(
            # botocore still presigns with SigV2 by default in the oldest regions.
            signature_version="s3v4",
            connect_timeout=10,
            read_timeout=30,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            s3={"addressing_style": style},
            proxies=proxies,
        ),
    )
    return client


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


def _is_aws(endpoint: str) -> bool:
    return (urlsplit(endpoint).hostname or "").endswith(_AWS_HOSTS)


def _replaced(uri: SourceURI, file: RemoteFile) -> str:
    return f"{uri}: {shown(file.path)} was replaced or removed after it had been resolved"
