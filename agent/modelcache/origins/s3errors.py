"""What boto3's errors mean."""

from __future__ import annotations

from typing import Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

from modelcache.errors import (
    AuthFailed,
    ModelCacheError,
    NotFound,
    OriginUnavailable,
    RateLimited,
)
from modelcache.origins.names import said
from modelcache.origins.waiting import retry_after_seconds

READ: Final = "s3:ListBucket and s3:GetObject"
"""The permissions that reading needs."""

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_REFUSED = {
    "ExpiredToken": "the session token has expired: renew the credentials",
    "InvalidAccessKeyId": "it does not know the access key: check AWS_ACCESS_KEY_ID",
    "InvalidToken": "the session token is not valid: renew the credentials",
    "RequestTimeTooSkewed": "this machine's clock is wrong: synchronise it",
    "SignatureDoesNotMatch": "the secret key is wrong: check AWS_SECRET_ACCESS_KEY",
}
_SLOW_DOWN = frozenset(
    ["SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"]
)
_NO_CREDENTIALS = (
    CredentialRetrievalError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)


def from_client_error(error: ClientError, uri: str, needed: str = READ) -> ModelCacheError:
    """Our error for one that the service sent. A HEAD has no body, so its code is the status.

    `needed`: the permissions that the request wants.
    """
    code = error.response.get("Error", {}).get("Code", "")
    meta = error.response.get("ResponseMetadata", {})
    status = meta.get("HTTPStatusCode", 0)
    wait = retry_after_seconds(meta.get("HTTPHeaders", {}).get("retry-after"))
    refusal = AuthFailed(f"{uri}: it refuses access: grant {needed}, or set secretName")
    if code == "AccessDenied":
        return refusal
    if reason := _REFUSED.get(code):
        return AuthFailed(f"{uri}: {reason}")
    if code in ("NoSuchBucket", "InvalidBucketName"):
        return NotFound(f"{uri}: there is no such bucket")
    if code in _SLOW_DOWN or status in (429, 503):
        return RateLimited(f"{uri}: S3 asks for fewer requests", retry_after=wait)
    if status in (401, 403):
        return refusal
    if status == 404:
        return NotFound(f"{uri}: there is no such object or prefix")
    if status >= 500:
        return OriginUnavailable(f"{uri}: S3 answers {status}", retry_after=wait)
    if 400 <= status < 500:
        # Only credentials and the object's encryption are left to be wrong in a request of ours;
        # the answer to a HEAD does not say which.
        return AuthFailed(
            f"{uri}: {error.operation_name} is refused ({said(code, 60)}): check the credentials,"
            " the region, and that the object is not encrypted with a customer's key (SSE-C)"
        )
    return OriginUnavailable(f"{uri}: S3 gives a broken answer ({said(code, 60)})")


def from_sdk_error(error: BotoCoreError, uri: str) -> ModelCacheError:
    """Our error for one that arose on this side of the wire."""
    if isinstance(error, NoCredentialsError):
        return AuthFailed(
            f"{uri}: no AWS credentials were found: set secretName, or give the agent's service"
            " account, its node or its environment (AWS_ACCESS_KEY_ID) some"
        )
    if isinstance(error, _NO_CREDENTIALS):
        return AuthFailed(f"{uri}: no AWS credentials could be had: {error}")
    return OriginUnavailable(f"{uri}: S3 can't be reached: {error}")
