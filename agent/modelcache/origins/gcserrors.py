"""What google-cloud-storage's errors mean."""

from __future__ import annotations

import re
from typing import Final

from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError

from modelcache.errors import (
    AuthFailed,
    ModelCacheError,
    NotFound,
    OriginUnavailable,
    RateLimited,
)
from modelcache.origins.names import said
from modelcache.origins.waiting import retry_after_seconds

LIST: Final = "storage.objects.list"
GET: Final = "storage.objects.get"
CREATE: Final = "storage.objects.create"
DELETE: Final = "storage.objects.delete"
"""The permissions that are needed."""

_PERMISSION = re.compile(r"\b(?:storage\.[a-z]+|serviceusage\.services)\.[A-Za-z]+\b")
_NOBODY = (
    "no Google credentials were found: set secretName, or give the agent's service account, its"
    " node or its environment (GOOGLE_APPLICATION_CREDENTIALS) some"
)


def unwrapped(error: Exception) -> Exception:
    """What was wrong in the end, of an error that the SDK repeated the request for."""
    seen = 0
    while seen < 5:
        seen += 1
        inner = error.cause if isinstance(error, RetryError) else None
        if isinstance(error, TransportError) and error.args:
            inner = error.args[0]
        if not isinstance(inner, Exception):
            break
        error = inner
    return error


def from_call_error(
    error: GoogleAPICallError, uri: str, permission: str, anonymous: bool
) -> ModelCacheError:
    """Our error for one that the service sent.

    Args:
        error: what the SDK raised; its answer may be missing.
        uri: the source.
        permission: what the request needs, where the answer names nothing else.
        anonymous: whether the request had no credentials.
    """
    status = int(error.code or 0)
    # "GET https://...: what is wrong"
    message = str(error.message or "").partition(": ")[2].replace("unknown error", "")
    wait = retry_after_seconds(getattr(error.response, "headers", {}).get("Retry-After"))
    if status == 400 and "requester pays" in message.lower():
        return AuthFailed(
            f"{uri}: whoever asks has to pay for this bucket: name a project in"
            " GOOGLE_CLOUD_QUOTA_PROJECT, which the secret may hold"
        )
    if status in (401, 403) and anonymous:
        return _not_public(uri)
    if status == 401:
        return AuthFailed(f"{uri}: Google refuses the credentials: they are wrong or have expired")
    if status == 403:
        return AuthFailed(f"{uri}: it refuses access: {_advice(message, permission)}")
    if status == 404:
        what = "bucket" if permission == LIST else "object or prefix"
        return NotFound(f"{uri}: there is no such {what}")
    if status == 429:
        return RateLimited(f"{uri}: Google Cloud Storage asks for fewer requests", retry_after=wait)
    if status >= 500 or status == 408:
        return OriginUnavailable(f"{uri}: Google Cloud Storage answers {status}", retry_after=wait)
    if status == 400:
        return AuthFailed(
            f"{uri}: the request is refused ({said(message, 120)}): check the bucket's name, the"
            " credentials, and that the object is not encrypted with a customer's key (CSEK)"
        )
    return OriginUnavailable(
        f"{uri}: Google Cloud Storage gives a broken answer ({status or said(message, 60)})"
    )


def from_auth_error(error: GoogleAuthError, uri: str, anonymous: bool) -> ModelCacheError:
    """Our error for one that arose when credentials or a token were looked for."""
    if anonymous:  # the SDK met a 401, and wanted to renew what there is not
        return _not_public(uri)
    if isinstance(error, DefaultCredentialsError):
        return AuthFailed(f"{uri}: no Google credentials could be had: {_line(error)}")
    if isinstance(error, TransportError) or error.retryable:
        return OriginUnavailable(f"{uri}: no token could be had from Google: {_line(error)}")
    return AuthFailed(f"{uri}: Google gives no token for the credentials: {_line(error)}")


def _not_public(uri: str) -> AuthFailed:
    return AuthFailed(f"{uri} is not public, or isn't there, and {_NOBODY}")


def _advice(message: str, permission: str) -> str:
    found = _PERMISSION.search(message)
    wanted = found.group() if found else permission
    if wanted.startswith("serviceusage."):
        return (
            f"grant {wanted} on the project that GOOGLE_CLOUD_QUOTA_PROJECT names"
            " (roles/serviceusage.serviceUsageConsumer)"
        )
    role = f"roles/storage.{'objectViewer' if wanted in (LIST, GET) else 'objectUser'}"
    if not found and message:
        return f"{said(message, 160)}; {wanted} is needed ({role} has it)"
    return f"grant {wanted} ({role} has it), or set secretName"


def _line(error: GoogleAuthError) -> str:
    return said(str(error.args[0] if error.args else error), 160)
