"""What only Google Cloud Storage has: generations, tokens, who pays, compressed objects."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from google.auth.compute_engine import _metadata

from modelcache.api import parse_uri
from modelcache.errors import AuthFailed, NotFound, OriginChanged, UsageError
from modelcache.origins import Origin, RemoteFile
from modelcache.origins.gcs import GcsOrigin
from tests.component.origins.conftest import checksum, fetched
from tests.support.fetching import Fetching
from tests.support.gcs import GcsServer
from tests.support.hub.client import get
from tests.support.secrets import with_secret

MIB = 1024 * 1024


@pytest.fixture
def bucket(gcs: GcsServer, request: pytest.FixtureRequest) -> str:
    return gcs.bucket(f"gs-{abs(hash(request.node.nodeid)):x}")


@pytest.fixture
def real(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> GcsServer:
    """The server as the real one, which credentials are sent to."""
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", gcs.url)
    gcs.private = True
    return gcs


def paths(uri: str) -> list[str]:
    return [file.path for file in GcsOrigin(parse_uri(uri)).resolve().files]


def test_googles_own_client_and_the_origin_see_the_same(bucket: str, gcs: GcsServer) -> None:
    """The server of these tests is as the client expects it, pages and generations included."""
    gcs.put_many(bucket, {f"m/{n:04}": b"%d" % n for n in range(2100)})
    gcs.put(bucket, "m/own", b"weights" * 9)
    gcs.requests.clear()
    theirs = {blob.name: blob for blob in gcs.client().list_blobs(bucket)}
    assert len(gcs.asked_for("/o")) == 3
    origin = GcsOrigin(parse_uri(f"gs://{bucket}/m"))
    ours = origin.resolve().files
    assert [file.origin_path for file in ours] == sorted(theirs)
    for file in (ours[0], ours[-1]):
        blob = theirs[file.origin_path]
        assert (file.size, file.etag) == (blob.size, str(blob.generation))
        data = gcs.client().bucket(bucket).blob(blob.name, generation=blob.generation)
        assert fetched(origin.locate(file)) == data.download_as_bytes()


def test_a_prefix_means_what_lies_below_it(bucket: str, gcs: GcsServer) -> None:
    names = ["m/llama/a", "m/llama/b/c", "m/llama-2/x", "m/llama.txt", "top"]
    gcs.put_many(bucket, dict.fromkeys(names, b"1"))
    assert paths(f"gs://{bucket}/m/llama") == ["a", "b/c"]
    assert paths(f"gs://{bucket}/m/llama/") == ["a", "b/c"]
    assert paths(f"gs://{bucket}/top") == ["top"]
    assert paths(f"gs://{bucket}/m/llama.txt") == ["llama.txt"]
    assert len(paths(f"gs://{bucket}")) == 5
    assert len(paths(f"gs://{bucket}/")) == 5


@pytest.mark.parametrize("path", ["m/lla", "m/llama/a/", "M/llama", "nope"])
def test_half_a_name_is_not_found(bucket: str, gcs: GcsServer, path: str) -> None:
    gcs.put_many(bucket, {"m/llama/a": b"1"})
    with pytest.raises(NotFound):
        paths(f"gs://{bucket}/{path}")


def test_markers_of_folders_are_left_out(bucket: str, gcs: GcsServer) -> None:
    gcs.put_many(bucket, dict.fromkeys(["m/", "m/sub/", "m/sub/a"], b""))
    assert paths(f"gs://{bucket}/m") == ["sub/a"]


def test_a_folder_goes_before_a_file_of_its_name(bucket: str, gcs: GcsServer) -> None:
    gcs.put_many(bucket, {"m": b"", "m/a": b"1"})
    assert paths(f"gs://{bucket}/m") == ["a"]


def test_an_empty_bucket_and_a_missing_one(bucket: str) -> None:
    with pytest.raises(NotFound, match="holds no objects"):
        paths(f"gs://{bucket}")
    with pytest.raises(NotFound, match="no such bucket"):
        paths("gs://there-is-no-such-bucket/m")


def test_an_identity_names_server_bucket_object_generation_and_size(
    bucket: str, gcs: GcsServer
) -> None:
    generation = gcs.put(bucket, "m/a", b"1")
    (file,) = GcsOrigin(parse_uri(f"gs://{bucket}/m")).resolve().files
    assert file.identity == f"gs:{gcs.netloc}/{bucket}/m/a#{generation}:1"
    assert file.checksums == {"crc32c": checksum("crc32c", b"1")}


def test_the_url_pins_the_generation_and_gives_ranges(bucket: str, gcs: GcsServer) -> None:
    generation = gcs.put(bucket, "m/a b", b"0123")
    origin = GcsOrigin(parse_uri(f"gs://{bucket}/m"))
    (file,) = origin.resolve().files
    location = origin.locate(file)
    assert location.url.startswith(f"{gcs.url}/download/storage/v1/b/{bucket}/o/m%2Fa%20b?")
    query = parse_qs(urlsplit(location.url).query)
    assert query == {"alt": ["media"], "generation": [str(generation)]}
    assert location.renewable
    answer = get(location.url, Range="bytes=1-2")
    assert (answer.status, answer.body) == (206, b"12")


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_an_object_that_changed_is_noticed(bucket: str, gcs: GcsServer, how: str) -> None:
    gcs.put(bucket, "m/a", b"one")
    origin = GcsOrigin(parse_uri(f"gs://{bucket}/m"))
    (file,) = origin.resolve().files
    before = origin.locate(file)
    if how == "replaced":
        gcs.put(bucket, "m/a", b"two")
    else:
        gcs.delete(bucket, "m/a")
    with pytest.raises(OriginChanged, match="replaced or removed"):
        origin.locate(file)
    assert get(before.url).status == 404


def test_a_server_that_ignores_generations_does_not_fool_us(
    bucket: str, gcs: GcsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = gcs.put(bucket, "m/a", b"one")
    monkeypatch.setattr("tests.support.gcs._Handler._generation", lambda *_: str(generation))
    origin = GcsOrigin(parse_uri(f"gs://{bucket}/m"))
    (file,) = origin.resolve().files
    assert file.checksums == {"crc32c": checksum("crc32c", b"one")}
    gcs.put(bucket, "m/a", b"two")
    origin.locate(file)
    with pytest.raises(OriginChanged):
        origin.locate(file)


def test_what_was_just_listed_is_located_without_a_question(bucket: str, gcs: GcsServer) -> None:
    gcs.put(bucket, "m/a", b"one")
    origin = GcsOrigin(parse_uri(f"gs://{bucket}/m"))
    (file,) = origin.resolve().files
    gcs.requests.clear()
    location = origin.locate(file)
    assert gcs.requests == []
    assert get(location.url).body == b"one"
    # Who asks again has met a refusal: there may be a newer token.
    gcs.requests.clear()
    assert origin.locate(file) == location
    assert len(gcs.requests) == 1


# Credentials


def test_a_service_accounts_key_from_a_secret(bucket: str, real: GcsServer, tmp_path: Path) -> None:
    real.put_many(bucket, {"m/a": b"1"})
    key = json.dumps(real.key())
    origin = with_secret(tmp_path, f"gs://{bucket}/m", GOOGLE_APPLICATION_CREDENTIALS_JSON=key)
    (file,) = origin.resolve().files
    location = origin.locate(file)
    assert fetched(location) == b"1"
    assert real.tokens == ["ya29.planted-1"], "one token for all requests"
    assert "planted" not in repr((origin, file, location))


def test_a_token_that_is_refused_is_renewed(bucket: str, real: GcsServer, tmp_path: Path) -> None:
    real.put_many(bucket, {"m/a": b"1"})
    key = json.dumps(real.key())
    origin = with_secret(tmp_path, f"gs://{bucket}/m", GOOGLE_APPLICATION_CREDENTIALS_JSON=key)
    (file,) = origin.resolve().files
    old = origin.locate(file)
    real.new_token()
    assert get(old.url, **dict(old.headers)).status == 401  # type: ignore[union-attr]
    assert fetched(origin.locate(file)) == b"1"


def test_the_engine_has_the_token_renewed_in_mid_download(
    bucket: str, real: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(real.key()))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    data = bytes(range(256)) * (24 * MIB // 256)
    real.put_many(bucket, {"m/a.safetensors": data})
    fetching = Fetching(tmp_path / "root")
    revoked: list[str] = []

    def revoke(_: object) -> None:
        if not revoked and fetching.received > MIB:
            revoked.append(real.new_token())

    fetching.on_event = revoke
    manifest = fetching.fetch("m", f"gs://{bucket}/m")
    fetching.close()
    assert revoked
    assert manifest.files[0].sha256 == checksum("sha256", data)
    assert manifest.files[0].checksums.keys() == {"crc32c"}
    assert b"planted" not in b"".join(
        path.read_bytes() for path in (tmp_path / "root").rglob("*.json")
    )


def test_workload_identity(bucket: str, real: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a pod on GKE has it: the token comes from the metadata server."""
    real.put_many(bucket, {"m/a": b"1"})
    monkeypatch.setenv("GCE_METADATA_IP", real.netloc)
    # The SDK reads these two from the environment when it is imported, which may have been before.
    monkeypatch.setattr(_metadata, "_NO_GCE_CHECK", False)
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", real.netloc)
    origin = GcsOrigin(parse_uri(f"gs://{bucket}/m"))
    (file,) = origin.resolve().files
    assert fetched(origin.locate(file)) == b"1"
    assert real.tokens


def test_a_public_bucket_needs_no_credentials(bucket: str, real: GcsServer) -> None:
    real.private = False
    real.put_many(bucket, {"m/a": b"1"})
    origin = GcsOrigin(parse_uri(f"gs://{bucket}/m"))
    (file,) = origin.resolve().files
    location = origin.locate(file)
    assert location.headers == {}
    assert fetched(location) == b"1"


def test_an_emulator_is_sent_no_credentials(
    bucket: str, gcs: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(gcs.key()))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.netloc)  # as other languages' SDKs take it
    gcs.put_many(bucket, {"m/a": b"1"})
    key = json.dumps(gcs.key())
    for origin in (
        GcsOrigin(parse_uri(f"gs://{bucket}/m")),
        with_secret(tmp_path, f"gs://{bucket}/m", GOOGLE_APPLICATION_CREDENTIALS_JSON=key),
    ):
        (file,) = origin.resolve().files
        location = origin.locate(file)
        assert location.headers == {}  # type: ignore[union-attr]
        assert fetched(location) == b"1"
    assert gcs.tokens == []
    assert not [request for request in gcs.requests if "Authorization" in request.headers]


def test_a_secret_goes_to_its_hosts_only(real: GcsServer, tmp_path: Path) -> None:
    key = json.dumps(real.key())
    origin = with_secret(
        tmp_path,
        "gs://bucket/m",
        "storage.googleapis.com",
        GOOGLE_APPLICATION_CREDENTIALS_JSON=key,
    )
    with pytest.raises(AuthFailed, match="add it to the secret's key 'hosts'"):
        origin.resolve()
    assert real.requests == []


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "has no key GOOGLE_APPLICATION_CREDENTIALS_JSON: add it"),
        ("planted", "is not a service account's key in JSON"),
        ("[]", "type service_account"),
        ('{"type": "external_account", "planted": 1}', "type service_account"),
        ('{"type": "service_account", "private_key": "planted"}', "is not a service account's key"),
    ],
)
def test_a_key_that_is_none(real: GcsServer, tmp_path: Path, key: str, said: str) -> None:
    origin = with_secret(tmp_path, "gs://bucket/m", GOOGLE_APPLICATION_CREDENTIALS_JSON=key)
    with pytest.raises(AuthFailed, match=said) as caught:
        origin.resolve()
    assert "planted" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_tokens_are_not_asked_for_without_tls(real: GcsServer, tmp_path: Path) -> None:
    key = json.dumps({**real.key(), "token_uri": "http://oauth2.example/token"})
    origin = with_secret(tmp_path, "gs://bucket/m", GOOGLE_APPLICATION_CREDENTIALS_JSON=key)
    with pytest.raises(AuthFailed, match="token_uri"):
        origin.resolve()


def test_a_key_file_that_is_not_there_is_not_taken_for_a_public_bucket(
    real: GcsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nope.json"))
    with pytest.raises(AuthFailed, match=r"could be had.*nope\.json"):
        GcsOrigin(parse_uri("gs://bucket/m")).resolve()
    assert real.requests == []


@pytest.mark.parametrize(
    "where", ["http://storage.example", "storage.example", "https://[", "ftp://h"]
)
def test_credentials_go_nowhere_without_tls(
    real: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(real.key()))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", where)
    with pytest.raises(UsageError, match="API_ENDPOINT_OVERRIDE"):
        GcsOrigin(parse_uri("gs://bucket/m")).resolve()


@pytest.mark.parametrize("given_by", ["environment", "secret"])
def test_the_project_that_pays(
    bucket: str, real: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given_by: str
) -> None:
    real.payer = "who-pays"
    real.put_many(bucket, {"m/a": b"1"})
    uri = f"gs://{bucket}/m"
    if given_by == "environment":
        real.private = False
        with pytest.raises(AuthFailed, match="GOOGLE_CLOUD_QUOTA_PROJECT"):
            GcsOrigin(parse_uri(uri)).resolve()
        monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "who-pays")
        origin: Origin = GcsOrigin(parse_uri(uri))
    else:
        origin = with_secret(
            tmp_path,
            uri,
            GOOGLE_APPLICATION_CREDENTIALS_JSON=json.dumps(real.key()),
            GOOGLE_CLOUD_QUOTA_PROJECT="who-pays",
        )
    (file,) = origin.resolve().files
    location = origin.locate(file)
    assert "&userProject=who-pays" in location.url  # type: ignore[union-attr]
    assert fetched(location) == b"1"


# Compressed objects


def test_an_object_stored_compressed_is_refused(bucket: str, gcs: GcsServer) -> None:
    gcs.put(bucket, "m/config.json", gzip.compress(b"{}"), content_encoding="gzip")
    origin = GcsOrigin(parse_uri(f"gs://{bucket}/m"))
    (file,) = origin.resolve().files
    with pytest.raises(NotFound, match=r"stored compressed.*upload it uncompressed"):
        origin.locate(file)


def test_a_file_whose_name_says_gzip_is_fetched_as_it_is_stored(
    bucket: str, gcs: GcsServer, tmp_path: Path
) -> None:
    data = gzip.compress(b"words " * 9999)
    gcs.put(bucket, "m/vocabulary.gz", data, content_encoding="gzip")
    fetching = Fetching(tmp_path / "root")
    (file,) = fetching.fetch("m", f"gs://{bucket}/m").files
    fetching.close()
    assert (file.sha256, file.size) == (checksum("sha256", data), len(data))


def test_an_object_that_is_not_there_was_removed(bucket: str) -> None:
    file = RemoteFile("a", "m/a", 1, "gs:x", etag="1")
    with pytest.raises(OriginChanged):
        GcsOrigin(parse_uri(f"gs://{bucket}/m")).locate(file)
