"""Which checksums of an object can be believed to be over its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from modelcache.api import parse_uri
from modelcache.origins import RemoteFile
from modelcache.origins.s3 import S3Origin
from tests.component.origins.conftest import checksum
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, Answer, S3Server, S3Stub

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

DATA = b"weights"
MD5 = checksum("md5", DATA)
CRC64 = "CzcTNQuA0eg="
SHA1 = "5s+gVOvjQ7N/jTzLtZRNo4pOGyY="

pytestmark = pytest.mark.usefixtures("asked_for_each")


@pytest.mark.parametrize("algorithm", ["SHA256", "SHA1", "CRC32", "CRC32C", "CRC64NVME"])
def test_the_objects_own_checksum(s3: S3Server, algorithm: str) -> None:
    client, bucket = s3.client(), f"sums-{algorithm.lower()}"
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="a", Body=DATA, ChecksumAlgorithm=algorithm)  # type: ignore[arg-type]
    origin = S3Origin(parse_uri(f"s3://{bucket}/a"))
    (file,) = origin.resolve().files
    name = algorithm.lower()
    assert origin.locate(file).checksums == {name: checksum(name, DATA)}


def test_the_entity_tag_where_it_is_an_md5(s3: S3Server) -> None:
    client = s3.client()
    client.create_bucket(Bucket="sums-md5")
    client.put_object(Bucket="sums-md5", Key="a", Body=DATA)
    origin = S3Origin(parse_uri("s3://sums-md5/a"))
    (file,) = origin.resolve().files
    assert origin.locate(file).checksums == {"md5": MD5}


def test_an_upload_in_parts_has_no_md5_and_no_composite(s3: S3Server) -> None:
    client = s3.client()
    client.create_bucket(Bucket="sums-parts")
    bucket, key = "sums-parts", "a"
    upload = client.create_multipart_upload(Bucket=bucket, Key=key, ChecksumAlgorithm="CRC32C")
    parts: list[CompletedPartTypeDef] = []
    for number in (1, 2):
        part = client.upload_part(
            Bucket=bucket,
            Key=key,
            UploadId=upload["UploadId"],
            PartNumber=number,
            Body=b"x" * 5_242_880,
            ChecksumAlgorithm="CRC32C",
        )
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    client.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=upload["UploadId"], MultipartUpload={"Parts": parts}
    )
    origin = S3Origin(parse_uri("s3://sums-parts/a"))
    (file,) = origin.resolve().files
    assert (file.etag or "").endswith("-2")
    assert origin.locate(file).checksums == {}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, {"md5": MD5}),
        ({"x-amz-server-side-encryption": "AES256"}, {"md5": MD5}),
        ({"x-amz-server-side-encryption": "aws:kms"}, {}),
        ({"x-amz-server-side-encryption": "aws:kms:dsse"}, {}),
        ({"x-amz-server-side-encryption-customer-algorithm": "AES256"}, {}),
        ({"x-amz-checksum-crc64nvme": CRC64}, {"crc64nvme": "0b3713350b80d1e8"}),
        (
            {"x-amz-checksum-crc64nvme": CRC64, "x-amz-checksum-type": "FULL_OBJECT"},
            {"crc64nvme": "0b3713350b80d1e8"},
        ),
        # SHA-1 is worth its price only where there is nothing cheaper.
        (
            {"x-amz-checksum-crc64nvme": CRC64, "x-amz-checksum-sha1": SHA1},
            {"crc64nvme": "0b3713350b80d1e8"},
        ),
        (
            {"x-amz-checksum-sha1": SHA1},
            {"sha1": "e6cfa054ebe343b37f8d3ccbb5944da38a4e1b26"},
        ),
        ({"x-amz-checksum-crc32": "AAAAAA==-3", "x-amz-checksum-type": "COMPOSITE"}, {"md5": MD5}),
        ({"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-type": "COMPOSITE"}, {"md5": MD5}),
        ({"x-amz-checksum-crc32": "AAAAAA==-3"}, {"md5": MD5}),
        ({"x-amz-checksum-crc32": "rubbish!"}, {"md5": MD5}),
        ({"x-amz-checksum-crc32": "AAAA"}, {"md5": MD5}),
    ],
)
@pytest.mark.parametrize("bucket", ["bucket", "bucket--use1-az4--x-s3"])
def test_what_a_head_tells(
    headers: dict[str, str],
    expected: dict[str, str],
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if bucket.endswith("--x-s3"):
        # The entity tags of directory buckets are random.
        expected = {name: value for name, value in expected.items() if name != "md5"}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_S3_DISABLE_EXPRESS_SESSION_AUTH", "true")
    head = {"ETag": f'"{MD5}"', "Content-Length": str(len(DATA)), **headers}
    with S3Stub(HEAD=Answer(headers=head)) as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stub.endpoint)
        origin = S3Origin(parse_uri(f"s3://{bucket}/a"))
        found = origin.locate(RemoteFile("a", "a", len(DATA), "s3:x", etag=MD5))
    assert found.checksums == expected
