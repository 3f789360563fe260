"""A connection to one bucket of Google Cloud Storage, or of its emulator (STORAGE_EMULATOR_HOST).

API_ENDPOINT_OVERRIDE names another endpoint, as of a Private Service Connect.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import google.auth
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.cloud.storage import Bucket, Client
from google.cloud.storage.retry import DEFAULT_RETRY
from google.oauth2 import service_account
from requests.exceptions import ProxyError, RequestException

from modelcache.api import SourceURI
from modelcache.api.uri import is_loopback
from modelcache.errors import (
    AuthFailed,
    ModelCacheError,
    OriginChanged,
    OriginUnavailable,
    UsageError,
)
from modelcache.origins.credentials import Secret
from modelcache.origins.gcserrors import from_auth_error, from_call_error, unwrapped
from modelcache.origins.googlesession import open_session
from modelcache.origins.names import said
from modelcache.origins.network import Network

DEFAULT_ENDPOINT: Final = "https://storage.googleapis.com"
READ: Final = "https://www.googleapis.com/auth/devstorage.read_only"
WRITE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
"""Scopes: what a token is good for, whatever its owner may do."""
KEY: Final = "GOOGLE_APPLICATION_CREDENTIALS_JSON"
"""The secret's key with a service account's key, as Google's console gives it (JSON)."""
PROJECT: Final = "GOOGLE_CLOUD_QUOTA_PROJECT"
"""The project that pays for requests to buckets whose requester pays."""
RETRY_SECONDS: Final = 6.0
"""How long the SDK repeats a request that meets an error; the agent itself tries again later."""
TIMEOUT: Final = (10.0, 30.0)
"""Seconds: for a connection, and for the next piece of an answer."""


@dataclass(frozen=True)
class Opened:
    """A client with what it was made of."""

    client: Client
    bucket: Bucket
    endpoint: str
    credentials: Credentials

    def media_url(self, name: str, generation: int) -> str:
        """Where an object's bytes are."""
        query = {"alt": "media", "generation": str(generation)}
        if self.bucket.user_project:
            query["userProject"] = self.bucket.user_project
        path = f"/download/storage/v1/b/{self.bucket.name}/o/{quote(name, safe='~')}"
        return f"{self.endpoint}{path}?{urlencode(query)}"

    def headers(self) -> dict[str, str]:
        """What has to be sent along."""
        headers: dict[str, str] = {}
        self.credentials.apply(headers)  # type: ignore[no-untyped-call]
        return headers


class GcsBucket:
    """One bucket, and who asks it. Safe for threads.

    Credentials are the secret's, which must name the endpoint's host, or the application's default
    ones (GOOGLE_APPLICATION_CREDENTIALS, Workload Identity, the node's service account); where
    there are none, the bucket is asked as a public one. They are never sent to an emulator.
    """

    def __init__(
        self,
        uri: SourceURI,
        *,
        secret: Secret | None = None,
        network: Network | None = None,
        scope: str = READ,
    ) -> None:
        """Make no request yet. The secret has `KEY`, and perhaps `PROJECT`."""
        self._uri = uri
        self._secret = secret
        self._network = network or Network()
        self._scope = scope
        self._opening = Lock()
        self._opened: Opened | None = None

    @property
    def host(self) -> str:
        """The host that is asked; empty as long as it was not asked for anything."""
        return urlsplit(self._opened.endpoint).netloc if self._opened else ""

    def opened(self) -> Opened:
        """The client, made when first asked for.

        Raises:
            AuthFailed: the secret may not be sent to the endpoint, or can't be read.
            UsageError: the environment names an endpoint that is not a URL.
        """
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
                self._opened = Opened(client, bucket, endpoint, credentials)
            return self._opened

    def _credentials(self, endpoint: str) -> Credentials:
        """Those of the secret, those of the environment, or none."""
        if self._secret is not None:
            self._secret.require(endpoint)
            return _from_key(self._secret, self._scope)
        try:
            found: Credentials = google.auth.default(scopes=[self._scope])[0]
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

    def _refusal(self, error: ProxyError) -> ModelCacheError | None:
        request = error.request
        url = str(request.url) if request is not None else self.opened().endpoint
        return self._network.refusal(url, str(error))

    @contextmanager
    def asking(self, permission: str, changed: str | None = None) -> Iterator[None]:
        """A context for the SDK's requests: their errors come out as ours.

        Args:
            permission: what the requests need.
            changed: what it means that an object is not there, if that is a change of what was
                resolved.
        """
        try:
            yield
        except (GoogleAPICallError, RetryError, GoogleAuthError, RequestException) as raised:
            error = unwrapped(raised)
            if isinstance(error, GoogleAPICallError):
                if changed is not None and error.code in (404, 412):
                    raise OriginChanged(changed) from raised
                raise from_call_error(
                    error, str(self._uri), permission, self._is_anonymous
                ) from raised
            if isinstance(error, GoogleAuthError):
                raise from_auth_error(error, str(self._uri), self._is_anonymous) from raised
            if isinstance(error, ValueError):
                raise OriginUnavailable(_odd(self._uri)) from raised
            if isinstance(error, ProxyError) and (refusal := self._refusal(error)):
                raise refusal from raised
            why = f"{type(error).__name__} {said(str(error), 160)}"
            raise OriginUnavailable(
                f"{self._uri}: Google Cloud Storage can't be reached: {why}"
            ) from raised
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            # The SDK takes answers apart unchecked; this is what a proxy's page ends in.
            raise OriginUnavailable(_odd(self._uri)) from error


def _from_key(secret: Secret, scope: str) -> Credentials:
    """A service account's credentials. Its key is never sent: it signs requests for tokens."""
    wrong = f"the secret {secret.name}: its key {KEY} is not a service account's key in JSON"
    try:
        info: Any = json.loads(secret.need(KEY))
        # Other kinds may name programs to be run and files to be read.
        if not isinstance(info, dict) or info.get("type") != "service_account":
            raise AuthFailed(f"{wrong} (type service_account)")
        credentials: Credentials = _service_account(info, scope)
    except (ValueError, TypeError, GoogleAuthError):
        # Not chained: the exception may hold the key.
        raise AuthFailed(wrong) from None
    token_uri = urlsplit(str(info["token_uri"]))
    if token_uri.scheme != "https" and not is_loopback(token_uri.hostname or ""):
        raise AuthFailed(
            f"the secret {secret.name}: the token_uri of its {KEY} is not an https URL"
        )
    return credentials


def _service_account(info: dict[str, Any], scope: str) -> Credentials:
    kind = service_account.Credentials
    found: Credentials = kind.from_service_account_info(info, scopes=[scope])  # type: ignore[no-untyped-call]
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


def retry() -> Any:
    """How the SDK repeats a request."""
    return DEFAULT_RETRY.with_delay(initial=0.5, maximum=4.0).with_timeout(RETRY_SECONDS)


def _is_anonymous(credentials: Credentials) -> bool:
    return isinstance(credentials, AnonymousCredentials)


def is_google(endpoint: str) -> bool:
    """Whether an endpoint is Google's own."""
    return (urlsplit(endpoint).hostname or "").endswith(".googleapis.com")


def _odd(uri: SourceURI) -> str:
    return f"{uri}: the answer is not Google Cloud Storage's: check the endpoint"
