"""What is made of Google Cloud Storage's refusals and breakdowns."""

from __future__ import annotations

import json
from pathlib import Path

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
from modelcache.origins.gcs import GcsOrigin
from tests.support.gcs import Fault, GcsServer

FILE = RemoteFile("a", "m/a", 1, "gs:x", etag="1")


@pytest.fixture(autouse=True)
def without_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelcache.origins.gcsclient.RETRY_SECONDS", 0.0)


@pytest.fixture
def key(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> GcsServer:
    """The server as the real one, and a key file in the environment."""
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", gcs.url)
    path = tmp_path / "key.json"
    path.write_text(json.dumps(gcs.key()))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    gcs.private = True
    return gcs


def failure(gcs: GcsServer, *faults: Fault) -> ModelCacheError:
    gcs.faults.extend(faults)
    with pytest.raises(ModelCacheError) as caught:
        GcsOrigin(parse_uri("gs://bucket/m")).resolve()
    assert str(caught.value).startswith("gs://bucket/m")
    assert "\n" not in str(caught.value)
    assert "planted" not in str(caught.value)
    return caught.value


DENIED = (
    "agent@project.iam.gserviceaccount.com does not have storage.objects.list access to the Google"
    " Cloud Storage bucket. Permission 'storage.objects.list' denied on resource (or it may not"
    " exist)."
)
UNPAID = (
    "agent@project.iam.gserviceaccount.com does not have serviceusage.services.use access to the"
    " Google Cloud project."
)


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (Fault(403, message=DENIED), AuthFailed, "grant storage.objects.list (roles/"),
        (Fault(403, message=UNPAID), AuthFailed, "grant serviceusage.services.use on the project"),
        (Fault(403, message="Billing is disabled."), AuthFailed, "'Billing is disabled.'; storage"),
        (Fault(403, body=b""), AuthFailed, "grant storage.objects.list"),
        (Fault(401), AuthFailed, "refuses the credentials"),
        (Fault(404, message="The specified bucket does not exist."), NotFound, "no such bucket"),
        (Fault(400, message="Invalid bucket name: 'x'"), AuthFailed, "Invalid bucket name"),
        (Fault(429), RateLimited, "fewer requests"),
        (Fault(500), OriginUnavailable, "answers 500"),
        (Fault(503, body=b"<html>"), OriginUnavailable, "answers 503"),
        (Fault(418), OriginUnavailable, "broken answer (418"),
    ],
)
def test_a_refusal_says_what_to_do(
    key: GcsServer, fault: Fault, kind: type[ModelCacheError], said: str
) -> None:
    error = failure(key, fault)
    assert type(error) is kind
    assert said in str(error)


@pytest.mark.parametrize("status", [429, 503])
def test_the_wish_to_wait_is_passed_on(gcs: GcsServer, status: int) -> None:
    error = failure(gcs, Fault(status, headers={"Retry-After": "17"}))
    assert isinstance(error, OriginUnavailable)
    assert error.retry_after == 17


@pytest.mark.parametrize("status", [401, 403])
def test_nobody_is_told_where_credentials_could_be(gcs: GcsServer, status: int) -> None:
    error = failure(gcs, Fault(status))
    assert isinstance(error, AuthFailed)
    assert "no Google credentials were found: set secretName" in str(error)


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'"x"', b'{"items": 7}', b'{"items": [7]}', b'{"items": [{}]}']
)
def test_an_answer_that_is_not_googles(gcs: GcsServer, body: bytes) -> None:
    error = failure(gcs, Fault(200, body=body, headers={"Content-Type": "application/json"}))
    assert isinstance(error, OriginUnavailable)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"name": "m/a", "size": "x", "generation": "1"}, "not Google"),
        ({"name": "m/a", "generation": "1"}, "size or generation"),
        ({"name": "m/a", "size": "1"}, "size or generation"),
    ],
)
def test_half_an_object(gcs: GcsServer, item: dict[str, str], said: str) -> None:
    body = json.dumps({"items": [item]}).encode()
    error = failure(gcs, Fault(200, body=body, headers={"Content-Type": "application/json"}))
    assert isinstance(error, OriginUnavailable)
    assert said in str(error)


MD5 = "xMpCOKC5I4INzFCab3WEmw=="


@pytest.mark.parametrize(
    ("crc32c", "md5", "expected"),
    [
        ("kPWZ4w==", MD5, {"crc32c": "90f599e3"}),
        ("", MD5, {"md5": "c4ca4238a0b923820dcc509a6f75849b"}),
        ("rubbish!", MD5, {"md5": "c4ca4238a0b923820dcc509a6f75849b"}),
        ("AAAA", "AAAA", {}),
        ("", "", {}),
    ],
)
def test_checksums(gcs: GcsServer, crc32c: str, md5: str, expected: dict[str, str]) -> None:
    item = {"name": "m/a", "size": "1", "generation": "1", "crc32c": crc32c, "md5Hash": md5}
    body = json.dumps({"items": [item]}).encode()
    gcs.faults.append(Fault(200, body=body, headers={"Content-Type": "application/json"}))
    (file,) = GcsOrigin(parse_uri("gs://bucket/m")).resolve().files
    assert file.checksums == expected


def test_a_permission_that_only_the_files_lack(key: GcsServer) -> None:
    key.faults.append(Fault(403, body=b""))
    with pytest.raises(AuthFailed, match=r"grant storage\.objects\.get"):
        GcsOrigin(parse_uri("gs://bucket/m")).locate(FILE)


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (
            Fault(400, "/token", body=b'{"error": "invalid_grant"}'),
            AuthFailed,
            "gives no token for the credentials",
        ),
        (Fault(503, "/token", body=b"{}"), OriginUnavailable, "no token could be had"),
        (Fault(200, "/token", body=b"<html>"), OriginUnavailable, "the answer is not Google"),
    ],
)
def test_no_token(
    key: GcsServer,
    fault: Fault,
    kind: type[ModelCacheError],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    error = failure(key, fault)
    assert type(error) is kind
    assert said in str(error)


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with GcsServer() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    with pytest.raises(OriginUnavailable, match="can't be reached"):
        GcsOrigin(parse_uri("gs://bucket/m")).resolve()


def test_a_request_is_repeated_by_the_sdk(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelcache.origins.gcsclient.RETRY_SECONDS", 6.0)
    monkeypatch.setattr("time.sleep", lambda _: None)
    bucket = gcs.bucket("repeated")
    gcs.put_many(bucket, {"m/a": b"1"})
    gcs.faults.append(Fault(503, times=2))
    assert GcsOrigin(parse_uri(f"gs://{bucket}/m")).resolve().files
    assert len(gcs.requests) == 3


@pytest.mark.parametrize("value", ["http://", "http://[", "ftp://h", "http://u@h"])
def test_an_endpoint_that_is_no_url(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", value)
    with pytest.raises(UsageError, match="STORAGE_EMULATOR_HOST"):
        GcsOrigin(parse_uri("gs://bucket/m")).resolve()
