"""Small objects: located without a question, and their checksums come with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from modelcache.api import Source, parse_uri
from modelcache.errors import ChecksumMismatch, OriginChanged
from modelcache.origins import HttpLocation
from modelcache.origins.s3 import SMALL_BYTES, S3Origin
from modelcache.store import Store
from modelcache.transfer import Cancel, Engine, ModelFetch, ModelFetcher, TransferSettings, resolve
from tests.component.origins.conftest import checksum
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, Answer, S3Server, S3Stub

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

DATA = b"weights"
QUICK = TransferSettings(tries=2, first_delay=0.01, most_delay=0.01)


def fetch(origin: S3Origin, folder: Path, uri: str) -> Mapping[str, str]:
    """Fetch it all; the checksums that were verified, of its only file."""
    source = Source(uri=uri)
    revision = resolve(origin, source, Cancel())
    return fetch_revision(ModelFetch("m", source, origin, revision), folder)


def fetch_revision(wanted: ModelFetch, folder: Path) -> Mapping[str, str]:
    engine = Engine(QUICK)
    try:
        manifest = ModelFetcher(Store(folder), engine, lambda _: None).fetch(wanted, Cancel())
    finally:
        engine.close()
    (file,) = manifest.files
    return file.checksums


@pytest.mark.parametrize("algorithm", ["SHA256", "SHA1", "CRC32", "CRC32C", "CRC64NVME"])
def test_the_checksum_comes_with_it(s3: S3Server, tmp_path: Path, algorithm: str) -> None:
    client, bucket = s3.client(), f"small-{algorithm.lower()}"
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="a", Body=DATA, ChecksumAlgorithm=algorithm)  # type: ignore[arg-type]
    uri = f"s3://{bucket}/a"
    origin = S3Origin(parse_uri(uri))
    (file,) = origin.resolve().files
    location = origin.locate(file)
    assert (location.checksums, location.headers) == ({}, {"x-amz-checksum-mode": "ENABLED"})
    name = algorithm.lower()
    # SHA-256 is computed anyway, and not noted again.
    expected = {} if name == "sha256" else {name: checksum(name, DATA)}
    assert fetch(origin, tmp_path / "root", uri) == expected


def test_the_entity_tag_where_it_is_an_md5(bucket: str, client: S3Client, tmp_path: Path) -> None:
    client.put_object(Bucket=bucket, Key="a", Body=DATA)
    uri = f"s3://{bucket}/a"
    found = fetch(S3Origin(parse_uri(uri)), tmp_path / "root", uri)
    assert found == {"md5": checksum("md5", DATA)}


def test_wrong_bytes_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    listing = (
        '<ListBucketResult><Contents><Key>a</Key><Size>7</Size><ETag>"e"</ETag></Contents>'
        "<IsTruncated>false</IsTruncated></ListBucketResult>"
    )
    headers = {"ETag": '"e"', "x-amz-checksum-crc32c": "AAAAAA=="}
    with S3Stub(GET=Answer(body=listing.encode())) as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stub.endpoint)
        origin = S3Origin(parse_uri("s3://bucket/"))
        revision = origin.resolve()
    with S3Stub(GET=Answer(headers=headers, body=DATA)) as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stub.endpoint)
        uri = "s3://bucket/"
        wanted = ModelFetch("m", Source(uri=uri), S3Origin(parse_uri(uri)), revision)
        with pytest.raises(ChecksumMismatch, match="crc32c 00000000"):
            fetch_revision(wanted, tmp_path / "root")


@pytest.mark.parametrize("replacement", [b"other", b"longer than before", None])
def test_a_replaced_object_is_noticed(
    bucket: str, client: S3Client, tmp_path: Path, replacement: bytes | None
) -> None:
    client.put_object(Bucket=bucket, Key="a", Body=b"first")
    uri = f"s3://{bucket}/a"
    origin = S3Origin(parse_uri(uri))
    revision = origin.resolve()
    if replacement is None:
        client.delete_object(Bucket=bucket, Key="a")
    else:
        client.put_object(Bucket=bucket, Key="a", Body=replacement)
    with pytest.raises(OriginChanged):
        fetch_revision(ModelFetch("m", Source(uri=uri), origin, revision), tmp_path / "root")


def test_one_that_is_not_small_is_asked_for(bucket: str, client: S3Client) -> None:
    client.put_object(Bucket=bucket, Key="a", Body=bytes(SMALL_BYTES + 1))
    origin = S3Origin(parse_uri(f"s3://{bucket}/a"))
    (file,) = origin.resolve().files
    location = origin.locate(file)
    assert isinstance(location, HttpLocation)
    assert location.checksums_of is None
    assert location.checksums
