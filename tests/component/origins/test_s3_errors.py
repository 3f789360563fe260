"""What goes wrong at S3, and what a person is told."""

import time

import pytest

from modelcache.api import parse_uri
from modelcache.errors import (
    AuthFailed,
    ModelCacheError,
    NotFound,
    OriginUnavailable,
    RateLimited,
    UsageError,
)
from modelcache.origins import RemoteFile
from modelcache.origins.s3 import S3Origin
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, Answer, S3Stub

FILE = RemoteFile("a", "m/a", 1, "s3:x", etag="t")

pytestmark = pytest.mark.usefixtures("asked_for_each")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    # One attempt: how long botocore waits between three is not what is tested.
    monkeypatch.setattr("modelcache.origins.s3client.ATTEMPTS", 1)


def failure(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> ModelCacheError:
    with S3Stub(GET=answer) as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stub.endpoint)
        with pytest.raises(ModelCacheError) as caught:
            S3Origin(parse_uri("s3://bucket/m")).resolve()
    assert SECRET_KEY not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("status", "code", "kind", "advice"),
    [
        (403, "AccessDenied", AuthFailed, "s3:ListBucket and s3:GetObject"),
        (403, "InvalidAccessKeyId", AuthFailed, "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", AuthFailed, "AWS_SECRET_ACCESS_KEY"),
        (400, "ExpiredToken", AuthFailed, "expired"),
        (400, "InvalidToken", AuthFailed, "renew"),
        (403, "RequestTimeTooSkewed", AuthFailed, "clock"),
        (403, "AllAccessDisabled", AuthFailed, "refuses access"),
        (400, "AuthorizationHeaderMalformed", AuthFailed, "AuthorizationHeaderMalformed"),
        (404, "NoSuchBucket", NotFound, "no such bucket"),
        (400, "InvalidBucketName", NotFound, "no such bucket"),
        (404, "NoSuchKey", NotFound, "no such object"),
        (503, "SlowDown", RateLimited, "fewer"),
        (503, "ServiceUnavailable", RateLimited, "fewer"),
        (429, "TooManyRequests", RateLimited, "fewer"),
        (500, "InternalError", OriginUnavailable, "500"),
        (502, "", OriginUnavailable, "502"),
    ],
)
def test_what_a_code_means(
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
    kind: type[ModelCacheError],
    advice: str,
) -> None:
    error = failure(monkeypatch, Answer(status, code))
    assert type(error) is kind
    assert advice in str(error)


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError")])
def test_the_wish_to_wait_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    error = failure(monkeypatch, Answer(status, code, headers={"Retry-After": "17"}))
    assert isinstance(error, OriginUnavailable)
    assert error.retry_after == 17


@pytest.mark.parametrize("body", [b"<html>", b"rubbish", b"{}"])
def test_an_answer_that_is_not_s3s(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    assert isinstance(failure(monkeypatch, Answer(200, body=body)), OriginUnavailable)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, AuthFailed), (403, AuthFailed), (503, RateLimited), (500, OriginUnavailable)],
)
def test_a_head_says_only_its_status(
    monkeypatch: pytest.MonkeyPatch, status: int, kind: type[ModelCacheError]
) -> None:
    with S3Stub(HEAD=Answer(status)) as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stub.endpoint)
        with pytest.raises(kind):
            S3Origin(parse_uri("s3://bucket/m")).locate(FILE)


def test_without_credentials_it_is_said_where_they_could_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with S3Stub() as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stub.endpoint)
        with pytest.raises(AuthFailed, match="no AWS credentials were found: set secretName"):
            S3Origin(parse_uri("s3://bucket/m")).resolve()
        assert stub.requests == []


def test_half_of_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AuthFailed, match="could be had"):
        S3Origin(parse_uri("s3://bucket/m")).resolve()


def test_a_profile_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(AuthFailed, match="nobody"):
        S3Origin(parse_uri("s3://bucket/m")).resolve()


def test_an_endpoint_that_is_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "minio:9000")
    with pytest.raises(UsageError, match="AWS_ENDPOINT_URL_S3"):
        S3Origin(parse_uri("s3://bucket/m")).resolve()


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with S3Stub() as stub:
        endpoint = stub.endpoint
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    with pytest.raises(OriginUnavailable, match="can't be reached"):
        S3Origin(parse_uri("s3://bucket/m")).resolve()


def test_three_attempts_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelcache.origins.s3client.ATTEMPTS", 3)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with S3Stub(GET=Answer(500, "InternalError")) as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stub.endpoint)
        with pytest.raises(OriginUnavailable):
            S3Origin(parse_uri("s3://bucket/m")).resolve()
        assert len(stub.requests) == 3
