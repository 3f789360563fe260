"""What only buckets have: leftovers, conditions, parts, permissions."""

from __future__ import annotations

import gzip
import json
import threading
import tracemalloc
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.oauth2 import service_account
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.s3.responses import S3Response

from modelcache.api import parse_uri
from modelcache.compilecache.bundles.statement import MAX_ENVELOPE_BYTES
from modelcache.compilecache.places import s3 as s3_module
from modelcache.compilecache.places.buckets import BucketPlace
from modelcache.compilecache.places.gcs import gcs_place
from modelcache.compilecache.places.opening import open_place
from modelcache.compilecache.places.protocol import LEFTOVER_SECONDS, folder_of
from modelcache.compilecache.places.s3 import s3_place
from modelcache.errors import (
    AuthFailed,
    BrokenBundle,
    Cancelled,
    NotFound,
    OriginUnavailable,
    RateLimited,
)
from modelcache.origins import Network, OriginSettings, SecretStore
from modelcache.transfer import Cancel
from tests.component.origins.conftest import fetched
from tests.support.bundles import a_bundle, a_key, noise
from tests.support.gcs import Fault, GcsServer
from tests.support.s3 import Answer, S3Server, S3Stub

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

OLD = datetime.now(UTC) - timedelta(seconds=LEFTOVER_SECONDS + 60)


@pytest.fixture
def bucket(s3: S3Server, tmp_path: Path) -> str:
    name = f"b-{abs(hash(str(tmp_path))):x}"
    s3.client().create_bucket(Bucket=name)
    return name


@pytest.fixture
def client(s3: S3Server) -> S3Client:
    return s3.client()


@pytest.fixture
def place(bucket: str) -> BucketPlace:
    return s3_place(parse_uri(f"s3://{bucket}/p"), secret=None, network=Network())


def names(client: S3Client, bucket: str) -> list[str]:
    return [found["Key"] for found in client.list_objects_v2(Bucket=bucket).get("Contents", [])]


def age(bucket: str, name: str) -> None:
    """An object's age is what moto says."""
    s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[bucket].keys[name].last_modified = OLD.replace(
        tzinfo=None
    )


def test_what_else_lies_in_a_bucket_is_no_bundle(
    place: BucketPlace, bucket: str, client: S3Client, tmp_path: Path
) -> None:
    key, digest = "a" * 64, "b" * 64
    for name in (
        f"p/{key}/{digest}/archive.tar.zst",  # not finished
        f"p/{key}/{digest}/more/bundle.json",
        f"p/{key}/short/bundle.json",
        f"p/{key.upper()}/{digest}/bundle.json",
        f"pp/{key}/{digest}/bundle.json",
        f"{key}/{digest}/bundle.json",
        "p/readme.txt",
    ):
        client.put_object(Bucket=bucket, Key=name, Body=b"{}")
    assert place.keys() == ()
    assert place.generations(key) == ()
    assert place.find(f"sha256:{digest}") is None


def test_a_whole_bucket_may_be_a_place(
    bucket: str, client: S3Client, tmp_path: Path, settings: OriginSettings
) -> None:
    bundle = a_bundle(tmp_path / "b")
    whole = open_place(f"s3://{bucket}", None, settings)
    assert whole.publish(bundle)
    (placed,) = whole.generations(bundle.statement.key.digest)
    assert names(client, bucket)[1] == f"{placed.folder}/bundle.json"


def test_old_leftovers_of_a_key_go_with_the_next_publisher(
    place: BucketPlace, bucket: str, client: S3Client, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b")
    key = bundle.statement.key.digest
    whole = a_bundle(tmp_path / "w", b"whole")
    place.publish(whole)
    left, new = (f"p/{key}/{d * 64}/archive.tar.zst" for d in "ab")
    others = f"p/{'0' * 64}/{'c' * 64}/archive.tar.zst"
    for name in (left, new, others):
        client.put_object(Bucket=bucket, Key=name, Body=b"half")
    client.create_multipart_upload(Bucket=bucket, Key=left)
    for name in (left, others, *(n for n in names(client, bucket) if whole.digest[7:] in n)):
        age(bucket, name)
    place.publish(bundle)
    found = names(client, bucket)
    assert left not in found
    assert {new, others} <= set(found)
    assert sum(whole.digest.removeprefix("sha256:") in name for name in found) == 2
    assert {placed.digest for placed in place.generations(key)} == {bundle.digest, whole.digest}
    # Of these moto says that they were begun in 2010.
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


def test_a_large_archive_goes_in_parts(
    bucket: str, client: S3Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 * 1024 * 1024)
    place = s3_place(parse_uri(f"s3://{bucket}/p"), secret=None, network=Network())
    bundle = a_bundle(tmp_path / "b", noise(12 * 1024 * 1024))
    assert place.publish(bundle)
    (placed,) = place.generations(bundle.statement.key.digest)
    head = client.head_object(Bucket=bucket, Key=f"p/{placed.folder}/archive.tar.zst")
    assert head["ETag"].endswith('-3"')
    got = client.get_object(Bucket=bucket, Key=f"p/{placed.folder}/archive.tar.zst")
    assert got["Body"].read() == bundle.archive.read_bytes()


def test_an_upload_to_s3_ends_in_the_middle_of_it(
    bucket: str, client: S3Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 * 1024 * 1024)
    put, cancel, parts = S3Response.upload_part, Cancel(), []

    def stopping(self: S3Response) -> Any:
        parts.append(self.path)
        cancel.set()
        return put(self)

    monkeypatch.setattr(S3Response, "upload_part", stopping)
    place = s3_place(parse_uri(f"s3://{bucket}/p"), secret=None, network=Network())
    bundle = a_bundle(tmp_path / "b", noise(40 * 1024 * 1024))
    before = set(threading.enumerate())
    with pytest.raises(Cancelled):
        place.publish(bundle, cancel)
    assert len(parts) <= 4  # of eight, two at a time
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    assert names(client, bucket) == []
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not {name for name in left if "ThreadPool" in name}, "a process would wait for them"


def test_a_machine_with_much_bandwidth_has_no_other_client(
    place: BucketPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself boto3 takes one there that has no bound of ours: most with GPUs are such ones."""
    made: list[object] = []

    def other_client(*given: object) -> None:
        made.append(given)

    monkeypatch.setattr("awscrt.s3.is_optimized_for_system", lambda: True)
    monkeypatch.setattr("boto3.s3.transfer.create_crt_transfer_manager", other_client)
    assert place.publish(a_bundle(tmp_path / "b"))
    assert made == []


def test_an_envelope_without_an_end_is_not_read_to_it(
    place: BucketPlace, bucket: str, client: S3Client, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b")
    place.publish(bundle)
    (placed,) = place.generations(bundle.statement.key.digest)
    name = f"p/{placed.folder}/bundle.json"
    client.put_object(Bucket=bucket, Key=name, Body=b" " * (MAX_ENVELOPE_BYTES + 1))
    with pytest.raises(BrokenBundle, match="longer than any envelope"):
        place.envelope(placed)


def test_a_missing_bucket_is_told(s3: S3Server, tmp_path: Path) -> None:
    place = s3_place(parse_uri("s3://there-is-none-of-it/p"), secret=None, network=Network())
    with pytest.raises(NotFound, match="no such bucket"):
        place.keys()
    with pytest.raises(NotFound, match="no such bucket"):
        place.publish(a_bundle(tmp_path / "b"))


EMPTY_LIST = Answer(body=b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")


def stubbed(stub: S3Stub, monkeypatch: pytest.MonkeyPatch) -> BucketPlace:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stub.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAPLANTED")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    monkeypatch.setattr("modelcache.origins.s3client.ATTEMPTS", 1)
    return s3_place(parse_uri("s3://bucket/p"), secret=None, network=Network())


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (Answer(403, "AccessDenied"), AuthFailed, "to publish, s3:PutObject"),
        (Answer(503, "SlowDown"), RateLimited, "fewer requests"),
        (Answer(500, "InternalError"), OriginUnavailable, "answers 500"),
    ],
)
def test_what_refusals_of_an_upload_mean(
    answer: Answer,
    error: type[Exception],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with S3Stub(GET=EMPTY_LIST, PUT=answer) as stub:
        place = stubbed(stub, monkeypatch)
        with pytest.raises(error, match=said) as caught:
            place.publish(a_bundle(tmp_path / "b"))
    assert "planted" not in str(caught.value)
    assert "bundle.json" not in " ".join(stub.requests)


def test_a_server_that_knows_no_conditions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Old(S3Stub):
        conditional = 0

        def answer(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
            if "If-None-Match" in headers:
                self.conditional += 1
                return Answer(501, "NotImplemented")
            return super().answer(method, path, headers)

    with Old(GET=EMPTY_LIST, PUT=Answer(headers={"ETag": '"x"'})) as stub:
        place = stubbed(stub, monkeypatch)
        assert place.publish(a_bundle(tmp_path / "b"))
    assert stub.conditional == 1
    assert [r for r in stub.requests if r.startswith("PUT")][-1].endswith("/bundle.json")


def test_who_may_not_clean_up_publishes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = a_key().digest
    listed = (
        f"<ListBucketResult><Contents><Key>p/{key}/{'a' * 64}/archive.tar.zst</Key><Size>4</Size>"
        f"<LastModified>2020-01-01T00:00:00Z</LastModified></Contents></ListBucketResult>"
    )
    with S3Stub(
        GET=Answer(body=listed.encode()),
        PUT=Answer(headers={"ETag": '"x"'}),
        DELETE=Answer(403, "AccessDenied"),
    ) as stub:
        assert stubbed(stub, monkeypatch).publish(a_bundle(tmp_path / "b"))
    assert any(request.startswith("DELETE") for request in stub.requests)


# Google


@pytest.fixture
def google(gcs: GcsServer, tmp_path: Path) -> str:
    return gcs.bucket(f"g-{abs(hash(str(tmp_path))):x}")


def test_google_is_asked_to_write_only_where_nothing_is(
    google: str, gcs: GcsServer, tmp_path: Path
) -> None:
    place = gcs_place(parse_uri(f"gs://{google}/p"), secret=None, network=Network())
    place.publish(a_bundle(tmp_path / "b"))
    archive, envelope = gcs.uploads
    assert "ifGenerationMatch" not in archive.query
    assert envelope.query["ifGenerationMatch"] == "0"


def test_who_reads_from_google_asks_for_no_right_to_write(
    google: str, gcs: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    original = service_account.Credentials.from_service_account_info

    def noted(info: object, scopes: list[str]) -> object:
        asked.append(scopes[0].rpartition(".")[2].encode())
        return original(info, scopes=scopes)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(service_account.Credentials, "from_service_account_info", noted)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", gcs.url)
    gcs.private = True
    mounted = tmp_path / "secrets" / "writer"
    mounted.mkdir(parents=True)
    (mounted / "GOOGLE_APPLICATION_CREDENTIALS_JSON").write_text(json.dumps(gcs.key()))
    (mounted / "hosts").write_text("127.0.0.1")
    secret = SecretStore(tmp_path / "secrets").read("writer")
    place = gcs_place(parse_uri(f"gs://{google}/p"), secret=secret, network=Network())
    assert place.keys() == ()
    assert asked == [b"read_only"]
    place.publish(a_bundle(tmp_path / "b"))
    assert asked == [b"read_only", b"read_write"]


def test_what_google_refuses(google: str, gcs: GcsServer, tmp_path: Path) -> None:
    place = gcs_place(parse_uri(f"gs://{google}/p"), secret=None, network=Network())
    gcs.faults.append(Fault(403, where="/upload/", message="no access"))
    with pytest.raises(AuthFailed):
        place.publish(a_bundle(tmp_path / "b"))
    gcs.faults.clear()
    assert place.keys() == ()


def test_an_envelope_that_google_keeps_compressed_is_no_bomb(
    google: str, gcs: GcsServer, tmp_path: Path
) -> None:
    """An object's writer may say that it is stored as gzip, and clients unpack that themselves."""
    place = gcs_place(parse_uri(f"gs://{google}/p"), secret=None, network=Network())
    bundle = a_bundle(tmp_path / "b")
    place.publish(bundle)
    (placed,) = place.generations(bundle.statement.key.digest)
    name = f"p/{placed.folder}/bundle.json"
    bomb = gzip.compress(bytes(256 * MAX_ENVELOPE_BYTES))
    assert len(bomb) < MAX_ENVELOPE_BYTES
    gcs.put(google, name, bomb, content_encoding="gzip")
    tracemalloc.start()
    try:
        assert len(place.envelope(placed)) <= MAX_ENVELOPE_BYTES
        assert tracemalloc.get_traced_memory()[1] < 16 * MAX_ENVELOPE_BYTES
    finally:
        tracemalloc.stop()


def test_an_envelope_of_google_without_an_end_is_not_read_to_it(
    google: str, gcs: GcsServer, tmp_path: Path
) -> None:
    """Whoever answers may pass over which part was asked for."""
    place = gcs_place(parse_uri(f"gs://{google}/p"), secret=None, network=Network())
    bundle = a_bundle(tmp_path / "b")
    place.publish(bundle)
    (placed,) = place.generations(bundle.statement.key.digest)
    gcs.faults.append(Fault(200, where="bundle.json", body=bytes(64 * MAX_ENVELOPE_BYTES)))
    tracemalloc.start()
    try:
        with pytest.raises(BrokenBundle, match="longer than any envelope"):
            place.envelope(placed)
        assert tracemalloc.get_traced_memory()[1] < 16 * MAX_ENVELOPE_BYTES
    finally:
        tracemalloc.stop()


def test_an_archive_that_lies_there_already_is_not_sent_over(
    google: str, gcs: GcsServer, tmp_path: Path
) -> None:
    """Who may create objects, and nothing more, may not put one in another's place; and a node that
    reads the old one would lose it under its hands."""
    place = gcs_place(parse_uri(f"gs://{google}/p"), secret=None, network=Network())
    bundle = a_bundle(tmp_path / "b", noise(50_000))
    folder = folder_of(bundle.statement.key.digest, bundle.digest)
    name = f"p/{folder}/archive.tar.zst"
    left = gcs.put(google, name, bundle.archive.read_bytes())  # by one that was killed then
    assert place.publish(bundle)
    blob = gcs.client().bucket(google).get_blob(name)
    assert blob is not None
    assert blob.generation == left


def test_another_archive_that_lies_there_gives_way(
    google: str, gcs: GcsServer, tmp_path: Path
) -> None:
    place = gcs_place(parse_uri(f"gs://{google}/p"), secret=None, network=Network())
    bundle = a_bundle(tmp_path / "b", noise(50_000))
    folder = folder_of(bundle.statement.key.digest, bundle.digest)
    size = bundle.statement.archive.size
    gcs.put(google, f"p/{folder}/archive.tar.zst", bytes(size))
    assert place.publish(bundle)
    (placed,) = place.generations(bundle.statement.key.digest)
    got = fetched(place.locate(placed, bundle.statement.archive))
    assert got == bundle.archive.read_bytes()


# What goes wrong while cleaning up


def test_a_server_that_knows_no_list_of_uploads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plain(S3Stub):
        def answer(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
            if method == "GET" and "uploads" in path:
                return Answer(501, "NotImplemented")
            return super().answer(method, path, headers)

    with Plain(GET=EMPTY_LIST, PUT=Answer(headers={"ETag": '"x"'})) as stub:
        place = stubbed(stub, monkeypatch)
        assert place.publish(a_bundle(tmp_path / "b")), "the bundle is there: that was no failure"
    assert any("uploads" in request for request in stub.requests)


def test_what_another_finishes_meanwhile_is_no_leftover(
    place: BucketPlace, bucket: str, client: S3Client, tmp_path: Path
) -> None:
    """A bundle half of which was there for a day is finished while another is sent."""
    slow, other = a_bundle(tmp_path / "s", b"slow"), a_bundle(tmp_path / "o", b"other")
    key = slow.statement.key.digest
    left = f"p/{folder_of(key, other.digest)}/archive.tar.zst"
    client.put_object(Bucket=bucket, Key=left, Body=b"half")
    age(bucket, left)

    class Sending:
        """As the bucket; in the middle of its first upload the other publishes."""

        def __init__(self) -> None:
            self._bucket, self._first = place._bucket, True

        def __getattr__(self, name: str) -> Any:
            return getattr(self._bucket, name)

        def put(self, name: str, *given: Any) -> None:
            if self._first:
                self._first = False
                assert place.publish(other)
            self._bucket.put(name, *given)

    slowly = BucketPlace(parse_uri(f"s3://{bucket}/p"), Sending())
    assert slowly.publish(slow)
    assert {placed.digest for placed in place.generations(key)} == {slow.digest, other.digest}
    for bundle in (slow, other):
        found = place.find(bundle.digest)
        assert found is not None
        got = fetched(place.locate(found, bundle.statement.archive))
        assert got == bundle.archive.read_bytes()
