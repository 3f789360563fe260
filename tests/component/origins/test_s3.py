"""What only S3 has: prefixes, versions, presigned URLs, endpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from modelcache.api import parse_uri
from modelcache.errors import AuthFailed, NotFound, OriginChanged
from modelcache.origins import RemoteFile
from modelcache.origins.s3 import S3Origin
from tests.component.origins.conftest import fetched
from tests.support.hub.client import get
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, Answer, S3Server, S3Stub
from tests.support.secrets import with_secret

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


def paths(uri: str) -> list[str]:
    return [file.path for file in S3Origin(parse_uri(uri)).resolve().files]


def test_a_prefix_means_what_lies_below_it(bucket: str, client: S3Client) -> None:
    for key in ["m/llama/a", "m/llama/b/c", "m/llama-2/x", "m/llama.txt", "top"]:
        client.put_object(Bucket=bucket, Key=key, Body=b"1")
    assert paths(f"s3://{bucket}/m/llama") == ["a", "b/c"]
    assert paths(f"s3://{bucket}/m/llama/") == ["a", "b/c"]
    assert paths(f"s3://{bucket}/top") == ["top"]
    assert paths(f"s3://{bucket}/m/llama.txt") == ["llama.txt"]
    assert len(paths(f"s3://{bucket}")) == 5
    assert len(paths(f"s3://{bucket}/")) == 5


@pytest.mark.parametrize("path", ["m/lla", "m/llama/a/", "M/llama", "nope"])
def test_half_a_name_is_not_found(bucket: str, client: S3Client, path: str) -> None:
    client.put_object(Bucket=bucket, Key="m/llama/a", Body=b"1")
    with pytest.raises(NotFound):
        paths(f"s3://{bucket}/{path}")


def test_markers_of_folders_are_left_out(bucket: str, client: S3Client) -> None:
    for key in ["m/", "m/sub/", "m/sub/a"]:
        client.put_object(Bucket=bucket, Key=key, Body=b"")
    assert paths(f"s3://{bucket}/m") == ["sub/a"]


def test_a_folder_goes_before_a_file_of_its_name(bucket: str, client: S3Client) -> None:
    """Some tools mark a folder with an empty object without the slash."""
    client.put_object(Bucket=bucket, Key="m", Body=b"")
    client.put_object(Bucket=bucket, Key="m/a", Body=b"1")
    assert paths(f"s3://{bucket}/m") == ["a"]


def test_an_empty_bucket_and_a_missing_one(bucket: str) -> None:
    with pytest.raises(NotFound, match="holds no objects"):
        paths(f"s3://{bucket}")
    with pytest.raises(NotFound, match="no such bucket"):
        paths("s3://there-is-no-such-bucket/m")


def test_an_identity_names_server_bucket_key_tag_and_size(
    bucket: str, client: S3Client, s3: S3Server
) -> None:
    etag = client.put_object(Bucket=bucket, Key="m/a", Body=b"1")["ETag"].strip('"')
    (file,) = S3Origin(parse_uri(f"s3://{bucket}/m")).resolve().files
    assert file.identity == f"s3:{urlsplit(s3.endpoint).netloc}/{bucket}/m/a:{etag}:1"


@pytest.mark.usefixtures("asked_for_each")
def test_the_url_is_presigned_with_nothing_but_the_host_signed(
    bucket: str, client: S3Client, s3: S3Server
) -> None:
    client.put_object(Bucket=bucket, Key="m/a", Body=b"0123")
    origin = S3Origin(parse_uri(f"s3://{bucket}/m"))
    (file,) = origin.resolve().files
    location = origin.locate(file)
    query = parse_qs(urlsplit(location.url).query)
    assert location.url.startswith(f"{s3.endpoint}/{bucket}/m/a?")
    assert query["X-Amz-SignedHeaders"] == ["host"]
    assert query["X-Amz-Expires"] == ["3600"]
    assert location.headers == {}
    assert location.renewable
    assert location.if_match == f'"{file.etag}"'
    assert get(location.url, Range="bytes=1-2").body == b"12"


def test_a_session_token_is_part_of_the_url(
    bucket: str, client: S3Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-session")
    client.put_object(Bucket=bucket, Key="a", Body=b"")
    origin = S3Origin(parse_uri(f"s3://{bucket}/a"))
    (file,) = origin.resolve().files
    query = parse_qs(urlsplit(origin.locate(file).url).query)
    assert query["X-Amz-Security-Token"] == ["a-session"]


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_region_of_the_environment_signs(
    bucket: str, client: S3Client, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "eu-west-3")
    client.put_object(Bucket=bucket, Key="a", Body=b"")
    origin = S3Origin(parse_uri(f"s3://{bucket}/a"))
    (file,) = origin.resolve().files
    assert "%2Feu-west-3%2Fs3%2F" in origin.locate(file).url


@pytest.mark.usefixtures("asked_for_each")
@pytest.mark.parametrize("replacement", [b"other", b"longer than before", None])
def test_a_replaced_object_is_noticed(
    bucket: str, client: S3Client, replacement: bytes | None
) -> None:
    client.put_object(Bucket=bucket, Key="m/a", Body=b"first")
    origin = S3Origin(parse_uri(f"s3://{bucket}/m"))
    (file,) = origin.resolve().files
    if replacement is None:
        client.delete_object(Bucket=bucket, Key="m/a")
    else:
        client.put_object(Bucket=bucket, Key="m/a", Body=replacement)
    with pytest.raises(OriginChanged, match="'a' was replaced or removed"):
        origin.locate(file)


def test_an_object_replaced_after_it_was_located_fails_the_precondition(
    bucket: str, client: S3Client
) -> None:
    client.put_object(Bucket=bucket, Key="m/a", Body=b"first")
    origin = S3Origin(parse_uri(f"s3://{bucket}/m"))
    (file,) = origin.resolve().files
    location = origin.locate(file)
    client.put_object(Bucket=bucket, Key="m/a", Body=b"other")
    with pytest.raises(AssertionError, match="412"):
        fetched(location)


@pytest.mark.usefixtures("asked_for_each")
def test_a_server_that_ignores_if_match_is_seen_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    with S3Stub(HEAD=Answer(headers={"ETag": '"new"', "Content-Length": "5"})) as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stub.endpoint)
        origin = S3Origin(parse_uri("s3://bucket/m"))
        with pytest.raises(OriginChanged):
            origin.locate(RemoteFile("a", "m/a", 5, "s3:x", etag="old"))


@pytest.mark.usefixtures("asked_for_each")
def test_in_a_versioned_bucket_the_located_version_stays(bucket: str, client: S3Client) -> None:
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    client.put_object(Bucket=bucket, Key="m/a", Body=b"first")
    origin = S3Origin(parse_uri(f"s3://{bucket}/m"))
    (file,) = origin.resolve().files
    location = origin.locate(file)
    client.put_object(Bucket=bucket, Key="m/a", Body=b"other")
    assert "versionId=" in location.url
    assert fetched(location) == b"first"
    with pytest.raises(OriginChanged):
        origin.locate(file)


def test_the_general_endpoint_variable_counts_too(
    bucket: str, client: S3Client, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.put_object(Bucket=bucket, Key="a", Body=b"")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert paths(f"s3://{bucket}") == ["a"]


@pytest.mark.parametrize(
    ("endpoint", "bucket", "url"),
    [
        (None, "bucket", "https://bucket.s3.eu-central-1.amazonaws.com/k?"),
        (None, "dotted.bucket", "https://s3.eu-central-1.amazonaws.com/dotted.bucket/k?"),
        ("https://minio.corp:9000", "bucket", "https://minio.corp:9000/bucket/k?"),
    ],
)
def test_how_a_bucket_is_addressed(
    monkeypatch: pytest.MonkeyPatch, endpoint: str | None, bucket: str, url: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    client = S3Origin(parse_uri(f"s3://{bucket}/m"))._s3.client()
    what = {"Bucket": bucket, "Key": "k"}
    assert client.generate_presigned_url("get_object", Params=what).startswith(url)


def test_a_secret_brings_its_keys(
    bucket: str, client: S3Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    origin = with_secret(
        tmp_path,
        f"s3://{bucket}",
        hosts="127.0.0.1",
        AWS_ACCESS_KEY_ID="AKIASECRET",
        AWS_SECRET_ACCESS_KEY="planted",
        AWS_SESSION_TOKEN="session",
        AWS_REGION="eu-north-1",
    )
    (file,) = origin.resolve().files
    location = origin.locate(file)
    assert "AKIASECRET%2F" in str(location)
    assert "%2Feu-north-1%2F" in str(location)
    assert "X-Amz-Security-Token=session" in str(location)
    assert "planted" not in repr((origin, location, vars(origin)))


def test_a_secret_for_another_host_is_not_sent(bucket: str, tmp_path: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "B", "hosts": "*.amazonaws.com"}
    with pytest.raises(AuthFailed, match="add it to the secret's key 'hosts'"):
        with_secret(tmp_path, f"s3://{bucket}", **keys).resolve()


def test_a_secret_with_half_the_keys_is_refused(s3: S3Server, tmp_path: Path) -> None:
    with pytest.raises(AuthFailed, match="no key AWS_SECRET_ACCESS_KEY"):
        with_secret(tmp_path, "s3://abc", AWS_ACCESS_KEY_ID="A", hosts="127.0.0.1").resolve()
