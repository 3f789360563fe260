"""gs://bucket/prefix: Google Cloud Storage, or its emulator (STORAGE_EMULATOR_HOST).

Google's SDK finds the credentials and lists; the bytes are fetched by our own engine, from the JSON
API's media URLs. They name the object's generation, so they give its bytes or none.
API_ENDPOINT_OVERRIDE names another endpoint, as of a Private Service Connect.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import google.auth
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.cloud.storage import Blob, Bucket, Client
from google.cloud.storage.retry import DEFAULT_RETRY
from google.oauth2 import service_account
from requests.exceptions import ProxyError, RequestException

from modelcache.api import SourceURI
from modelcache.api.uri import is_loopback
from modelcache.errors import (
    AuthFailed,
    ModelCacheError,
    NotFound,
    OriginChanged,
    OriginUnavailable,
    UsageError,
)
from modelcache.origins.credentials import Secret
from modelcache.origins.gcserrors import GET, LIST, from_auth_error, from_call_error, unwrapped
from modelcache.origins.googlesession import open_session
from modelcache.origins.names import shown
from modelcache.origins.network import Network
from modelcache.origins.protocol import HttpLocation, RemoteFile, Revision

DEFAULT_ENDPOINT: Final = "https://storage.googleapis.com"
SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_only"
KEY: Final = "GOOGLE_APPLICATION_CREDENTIALS_JSON"
"""The secret's key with a service account's key, as Google's console gives it (JSON)."""
PROJECT: Final = "GOOGLE_CLOUD_QUOTA_PROJECT"
"""The project that pays for requests to buckets whose requester pays."""
RETRY_SECONDS: Final = 6.0
"""How long the SDK repeats a request that meets an error; the agent itself tries again later."""

_TIMEOUT = (10.0, 30.0)
_FIELDS = "items(name,size,generation,crc32c,md5Hash,contentEncoding),nextPageToken"


@dataclass(frozen=True)
class _Opened:
    """A client with what it was made of."""

    client: Client
    bucket: Bucket
    endpoint: str
    credentials: Credentials


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
        self._network = network or Network()
        self._mirrored = mirrored
        self._uri = uri
        self._secret = secret
        self._opening = Lock()
        self._opened: _Opened | None = None
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
        with self._asking(LIST):
            files = list(self._below(prefix))
        if not files and prefix and prefix != self._uri.path:
            with self._asking(GET):
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
        with self._asking(GET, changed=file):
            opened = self._open()
            if file.origin_path in self._listed and opened.credentials.valid:
                encoding = self._listed.pop(file.origin_path)
            else:
                blob = opened.bucket.blob(file.origin_path, generation=generation)
                blob.reload(timeout=_TIMEOUT, retry=_retry())
                if (blob.size, blob.generation) != (file.size, generation):
                    # For servers that take no notice of the generation.
                    raise OriginChanged(_replaced(self._uri, file))
                encoding = blob.content_encoding
            headers: dict[str, str] = {}
            opened.credentials.apply(headers)  # type: ignore[no-untyped-call]
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
            self._media(opened, file, generation),
            headers=headers,
            checksums=file.checksums,
            renewable=True,
            pinned=True,
            # As the XML API has it. Who caches by URL keeps the generations apart.
            mirror_path=f"/{self._uri.authority}/{quote(file.origin_path)}?generation={generation}",
        )

    def _media(self, opened: _Opened, file: RemoteFile, generation: int) -> str:
        query = {"alt": "media", "generation": str(generation)}
        if opened.bucket.user_project:
            query["userProject"] = opened.bucket.user_project
        name = quote(file.origin_path, safe="~")
        path = f"/download/storage/v1/b/{self._uri.authority}/o/{name}"
        return f"{opened.endpoint}{path}?{urlencode(query)}"

    def _open(self) -> _Opened:
        with self._opening:
            if self._opened is None:
                emulator = os.environ.get("STORAGE_EMULATOR_HOST")
                if emulator:
                    endpoint = emulator if "://" in emulator else f"http://{emulator}"
                    credentials = _nobody()
                else:
                    endpoint = os.environ.get("API_ENDPOINT_OVERRIDE") or DEFAULT_ENDPOINT
                    credentials = self._credentials(endpoint)
                _check(endpoint, safe=bool(emulator) or _is_anonymous(credentials))
                endpoint = endpoint.rstrip("/")
                # Otherwise the SDK asks for the bucket itself in a thread of its own, for the sake
                # of traces that nobody writes; who may read objects may not ask that.
                os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
                client = Client(
                    project=None,
                    credentials=credentials,
                    client_options={"api_endpoint": endpoint},
                    _http=open_session(credentials, self._network),
                )
                bucket = client.bucket(self._uri.authority, user_project=self._project())
                self._opened = _Opened(client, bucket, endpoint, credentials)
            return self._opened

    def _credentials(self, endpoint: str) -> Credentials:
        """Those of the secret, those of the environment, or none."""
        if self._secret is not None:
            self._secret.require(endpoint)
            return _from_key(self._secret)
        try:
            found: Credentials = google.auth.default(scopes=[SCOPE])[0]
            return found
        except DefaultCredentialsError as error:
            # Anything but that there are none at all, such as a key file that can't be read.
            if "credentials were not found" not in str(error):
                raise
            return _nobody()

    @property
    def _is_anonymous(self) -> bool:
        return self._opened is not None and _is_anonymous(self._opened.credentials)

    def _project(self) -> str | None:
        if self._secret is not None:
            return self._secret.get(PROJECT)
        return os.environ.get(PROJECT) or None

    def _below(self, prefix: str) -> Iterator[RemoteFile]:
        opened = self._open()
        blobs = opened.client.list_blobs(
            opened.bucket, prefix=prefix, fields=_FIELDS, timeout=_TIMEOUT, retry=_retry()
        )
        for blob in blobs:
            if not (blob.name.endswith("/") and blob.size == 0):
                yield self._file(blob.name.removeprefix(prefix), blob)

    def _single(self, name: str) -> RemoteFile:
        blob = self._open().bucket.blob(name)
        blob.reload(timeout=_TIMEOUT, retry=_retry())
        return self._file(name.rpartition("/")[2], blob)

    def _file(self, path: str, blob: Blob) -> RemoteFile:
        if blob.size is None or blob.generation is None:
            raise OriginUnavailable(f"{self._uri}: the answer lacks an object's size or generation")
        endpoint = self._open().endpoint
        where = "google" if _is_google(endpoint) else urlsplit(endpoint).netloc
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

    def _refusal(self, error: ProxyError) -> ModelCacheError | None:
        request = error.request
        url = str(request.url) if request is not None else self._open().endpoint
        return self._network.refusal(url, str(error))

    @contextmanager
    def _asking(self, permission: str, changed: RemoteFile | None = None) -> Iterator[None]:
        """A context for the SDK's requests: their errors come out as ours.

        Args:
            permission: what the requests need.
            changed: the file whose absence means that it was replaced.
        """
        try:
            yield
        except (GoogleAPICallError, RetryError, GoogleAuthError, RequestException) as raised:
            error = unwrapped(raised)
            if isinstance(error, GoogleAPICallError):
                if changed is not None and error.code in (404, 412):
                    raise OriginChanged(_replaced(self._uri, changed)) from raised
                raise from_call_error(
                    error, str(self._uri), permission, self._is_anonymous
                ) from raised
            if isinstance(error, GoogleAuthError):
                raise from_auth_error(error, str(self._uri), self._is_anonymous) from raised
            if isinstance(error, ValueError):
                raise OriginUnavailable(_odd(self._uri)) from raised
            if isinstance(error, ProxyError) and (refusal := self._refusal(error)):
                raise refusal from raised
            why = f"{type(error).__name__} {shown(str(error), 160)}"
            raise OriginUnavailable(
                f"{self._uri}: Google Cloud Storage can't be reached: {why}"
            ) from raised
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # The SDK takes answers apart unchecked; this is what a proxy's page ends in.
            raise OriginUnavailable(_odd(self._uri)) from error


def _from_key(secret: Secret) -> Credentials:
    """A service account's credentials. Its key is never sent: it signs requests for tokens."""
    wrong = f"the secret {secret.name}: its key {KEY} is not a service account's key in JSON"
    try:
        info: Any = json.loads(secret.need(KEY))
        # Other kinds may name programs to be run and files to be read.
        if not isinstance(info, dict) or info.get("type") != "service_account":
            raise AuthFailed(f"{wrong} (type service_account)")
        credentials: Credentials = _service_account(info)
    except (ValueError, TypeError, GoogleAuthError):
        # Not chained: the exception may hold the key.
        raise AuthFailed(wrong) from None
    token_uri = urlsplit(str(info["token_uri"]))
    if token_uri.scheme != "https" and not is_loopback(token_uri.hostname or ""):
        raise AuthFailed(
            f"the secret {secret.name}: the token_uri of its {KEY} is not an https URL"
        )
    return credentials


def _service_account(info: dict[str, Any]) -> Credentials:
    kind = service_account.Credentials
    found: Credentials = kind.from_service_account_info(info, scopes=[SCOPE])  # type: ignore[no-untyped-call]
    return found


def _nobody() -> Credentials:
    return AnonymousCredentials()  # type: ignore[no-untyped-call]


def _check(endpoint: str, *, safe: bool) -> None:
    """Check that credentials go nowhere without TLS; `safe`: there are none."""
    try:
        parts = urlsplit(endpoint)
        readable = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
    except ValueError:
        readable = False
    if not readable:
        raise UsageError(
            "STORAGE_EMULATOR_HOST or API_ENDPOINT_OVERRIDE is not a URL: write https://host"
        )
    if parts.scheme == "http" and not safe and not is_loopback(parts.hostname or ""):
        raise UsageError("API_ENDPOINT_OVERRIDE is without TLS: write https://host")


def _retry() -> Any:
    return DEFAULT_RETRY.with_delay(initial=0.5, maximum=4.0).with_timeout(RETRY_SECONDS)


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


def _is_anonymous(credentials: Credentials) -> bool:
    return isinstance(credentials, AnonymousCredentials)


def _is_google(endpoint: str) -> bool:
    return (urlsplit(endpoint).hostname or "").endswith(".googleapis.com")


def _replaced(uri: SourceURI, file: RemoteFile) -> str:
    return f"{uri}: {shown(file.path)} was replaced or removed after it had been resolved"


def _odd(uri: SourceURI) -> str:
    return f"{uri}: the answer is not Google Cloud Storage's: check the endpoint"
