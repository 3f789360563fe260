"""Whatever an origin answers: a revision whose facts can be relied on, or one of our errors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from modelcache.api import Source, parse_uri
from modelcache.errors import ModelCacheError, OriginUnavailable, UsageError
from modelcache.origins import RemoteFile, Revision, s3client
from modelcache.origins.gcs import GcsOrigin
from modelcache.origins.hf import HuggingFaceOrigin
from modelcache.origins.network import Network
from modelcache.origins.oci import OciOrigin
from modelcache.origins.s3 import S3Origin
from modelcache.origins.selection import select
from tests.support.documents import DEPTH, NUMBERS, TEXTS, changed, torn, written
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, Answer, S3Stub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BLOB = "b" * 40
DIGEST = "d" * 64
NETWORK = Network(environment={})
JSON = {"Content-Type": "application/json"}
FEW = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Server(S3Stub):
    """A server whose answers change; what it has no answer for isn't there."""

    def __init__(self) -> None:
        super().__init__()
        self.says: Callable[[str, str], Answer] = lambda _method, _path: Answer(404)

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        return self.says(method, path)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


HEADER_VALUES = st.one_of(
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=20),
    st.sampled_from(["", "0", "-1", "1" * 5000, "bytes 0-1/2", '""', 'W/"x"', "gzip", "chunked"]),
    st.sampled_from(["//", "http://[", "https://a b/", "?", "../..", "ftp://x/", "x" * 3000]),
)


@contextmanager
def ours() -> Iterator[None]:
    """What fails, fails by an error that users are to meet; none is the user's own fault."""
    with suppress(ModelCacheError):
        try:
            yield
        except UsageError as error:
            raise AssertionError(f"an answer is told as a wrong setting: {error}") from error


def check(revision: Revision) -> None:
    """What the engine relies on."""
    assert re.fullmatch(r"[0-9a-f]{12,64}", revision.id)
    blobs = [archive.blob for archive in revision.archives]
    for file in (*revision.files, *blobs):
        assert type(file.path) is type(file.origin_path) is type(file.identity) is str
        assert type(file.size) is int
        assert 0 <= file.size < 2**63
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert all(re.fullmatch(r"[0-9a-f]+", value) for value in file.checksums.values())
        assert file.etag is None or isinstance(file.etag, str)
        json.dumps([file.path, file.identity, file.etag]).encode()
    with ours():
        for file in select(revision, Source(uri="hf://org/name")).files:
            parts = file.path.split("/")
            assert not {"", ".", ".."} & set(parts)
            file.path.encode()


# Hugging Face

INFO: dict[str, Any] = {
    "id": "org/name",
    "sha": COMMIT,
    "gated": False,
    "private": False,
    "lastModified": "2026-01-01T00:00:00.000Z",
    "createdAt": "2026-01-01T00:00:00.000Z",
    "siblings": [{"rfilename": "config.json"}],
    "tags": ["x"],
    "downloads": 1,
    "cardData": {"license": "mit"},
}
LFS = {"oid": DIGEST, "size": 7, "pointerSize": 130}
TREE: list[dict[str, Any]] = [
    {"type": "file", "oid": BLOB, "size": 2, "path": "config.json"},
    {"type": "file", "oid": BLOB, "size": 7, "path": "w.safetensors", "lfs": LFS},
    {"type": "directory", "oid": BLOB, "size": 0, "path": "d"},
]
HEAD = {
    "X-Repo-Commit": COMMIT,
    "X-Linked-Etag": f'"{DIGEST}"',
    "X-Linked-Size": "7",
    "ETag": f'"{DIGEST}"',
    "Location": "/somewhere?X-Amz-Expires=3600",
    "Content-Disposition": "attachment; filename=\"../../x\"; filename*=UTF-8''..%2Fx",
}


def broken(good: Any) -> st.SearchStrategy[bytes]:
    return st.one_of(
        changed(good).map(written),
        changed(good).map(written),
        torn(written(good)),
        st.sampled_from([b"[" * DEPTH, b'{"a":' * DEPTH, b"<html>", b"null", b"[[]]"]),
    )


LINKS = st.one_of(
    st.just({}),
    st.builds(lambda url: {"Link": f'<{url}>; rel="next"'}, HEADER_VALUES),
    st.builds(lambda value: {"Link": value}, HEADER_VALUES),
)


def _hub(server: Server) -> HuggingFaceOrigin:
    uri = parse_uri("hf://org/name")
    return HuggingFaceOrigin(uri, endpoint=server.endpoint, network=NETWORK)


@FEW
@given(
    info=st.one_of(st.just(written(INFO)), broken(INFO)),
    tree=st.one_of(broken(TREE), st.just(written(TREE))),
    links=LINKS,
)
@example(info=written(INFO), tree=b"[" * DEPTH, links={})
@example(info=written({**INFO, "sha": "../x"}), tree=written(TREE), links={})
@example(info=written(INFO), tree=written([{**TREE[0], "size": "many"}]), links={})
@example(info=written(INFO), tree=written([{**TREE[0], "size": -1}]), links={})
@example(info=written(INFO), tree=written([{**TREE[0], "size": 1e300}]), links={})
@example(info=written(INFO), tree=written([{**TREE[0], "path": 5}]), links={})
@example(info=written(INFO), tree=written([{**TREE[0], "path": "\ud800"}]), links={})
@example(info=written(INFO), tree=written([{**TREE[0], "lfs": {**LFS, "oid": [1]}}]), links={})
def test_a_hub(server: Server, info: bytes, tree: bytes, links: dict[str, str]) -> None:
    pages = [
        Answer(200, headers={**JSON, **links}, body=tree),
        Answer(200, headers=JSON, body=b"[]"),
    ]
    server.says = lambda _, path: (
        (pages.pop(0) if len(pages) > 1 else pages[0])
        if "/tree/" in path
        else Answer(200, headers=JSON, body=info)
    )
    origin = _hub(server)
    with ours():
        check(origin.resolve())


@FEW
@given(st.sampled_from(sorted(HEAD)), HEADER_VALUES, st.sampled_from([200, 302, 307]))
def test_a_hubs_redirect(server: Server, name: str, value: str, status: int) -> None:
    head = Answer(status, headers={**HEAD, name: value})
    server.says = lambda method, path: (
        head
        if method == "HEAD"
        else Answer(200, headers=JSON, body=written(TREE if "/tree/" in path else INFO))
    )
    origin = _hub(server)
    with ours():
        revision = origin.resolve()
        assert {file.path for file in revision.files} == {"config.json", "w.safetensors"}
        for file in revision.files:
            location = origin.locate(file)
            assert location.url.startswith("http")


def test_a_hub_with_tls_leads_to_no_place_without(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = parse_uri(f"hf://org/name@{COMMIT}")
    origin = HuggingFaceOrigin(uri, endpoint="https://hub.example", network=NETWORK)
    monkeypatch.setattr(origin, "_commit", COMMIT)
    monkeypatch.setattr(origin, "_head", lambda _: (DIGEST, "http://cdn.example/w"))
    file = RemoteFile("w", "w", 7, f"sha256:{DIGEST}", sha256=DIGEST)
    with pytest.raises(OriginUnavailable, match="without TLS"):
        origin.locate(file)


# Registries

LAYER = {
    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
    "digest": f"sha256:{DIGEST}",
    "size": 9,
    "annotations": {"org.opencontainers.image.title": "w.safetensors"},
}
IMAGE: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": f"sha256:{DIGEST}",
        "size": 2,
    },
    "layers": [LAYER, {**LAYER, "mediaType": "application/octet-stream"}],
}
ARTIFACT = {**IMAGE, "artifactType": "application/x", "layers": [IMAGE["layers"][1]]}


def index(of: bytes) -> dict[str, Any]:
    described = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": f"sha256:{sha256(of).hexdigest()}",
        "size": len(of),
        "platform": {"os": "linux", "architecture": "amd64"},
        "annotations": {"vnd.docker.reference.type": "no"},
    }
    return {"schemaVersion": 2, "manifests": [{**described, "size": 0}, described]}


TYPES = st.sampled_from(
    ["", "text/html", "application/vnd.oci.image.index.v1+json", IMAGE["mediaType"]]
)


@FEW
@given(
    tagged=st.one_of(
        broken(IMAGE), broken(ARTIFACT), broken(index(written(IMAGE))), st.binary(max_size=30)
    ),
    kind=TYPES,
)
def test_a_registry(server: Server, tagged: bytes, kind: str) -> None:
    image = written(IMAGE)
    server.says = lambda _, path: Answer(
        200,
        headers={"Content-Type": kind},
        body=tagged if path.endswith("/latest") else image,
    )
    place = server.endpoint.removeprefix("http://")
    uri = parse_uri(f"oci://{place}/a/b")
    with ours():
        check(OciOrigin(uri, machine="x86_64", network=NETWORK).resolve())


TOKEN: dict[str, Any] = {"token": "abc", "access_token": "abc", "expires_in": 60}


@FEW
@given(
    token=broken(TOKEN),
    realm=st.one_of(st.just(""), HEADER_VALUES),
    scheme=st.sampled_from(["Bearer", "Basic", "bearer", "Negotiate", "Bearer Bearer"]),
    error=broken({"errors": [{"code": "DENIED", "message": "no"}]}),
)
@example(token=b'{"token": "abc", "expires_in": 1e999}', realm="", scheme="Bearer", error=b"")
@example(token=b'{"token": "abc", "expires_in": -1}', realm="", scheme="Bearer", error=b"")
@example(token=b'{"token": "a\\r\\nb"}', realm="", scheme="Bearer", error=b"")
def test_a_registrys_login(
    server: Server, token: bytes, realm: str, scheme: str, error: bytes
) -> None:
    where = realm or f"{server.endpoint}/token"
    wants = {"WWW-Authenticate": f'{scheme} realm="{where}",service="x"'}
    asked = 0

    def says(_: str, path: str) -> Answer:
        nonlocal asked
        if path.startswith("/token"):
            return Answer(200, headers=JSON, body=token)
        asked += 1
        if asked % 2:
            return Answer(401, headers=wants, body=error)
        return Answer(200, headers={"Content-Type": IMAGE["mediaType"]}, body=written(IMAGE))

    server.says = says
    place = server.endpoint.removeprefix("http://")
    uri = parse_uri(f"oci://{place}/a/b")
    with ours():
        check(OciOrigin(uri, machine="x86_64", network=NETWORK).resolve())
    assert asked <= 2


# Amazon S3

FIELDS: dict[str, Any] = {
    "Key": "m/w.safetensors",
    "LastModified": "2026-01-01T00:00:00.000Z",
    "ETag": f'"{"e" * 32}"',
    "Size": "7",
    "StorageClass": "STANDARD",
}


def xml(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(f"<{name}>{xml(each)}</{name}>" for name, each in value.items())
    return escape("" if value is None else str(value))


def listing(fields: dict[str, Any], **more: Any) -> bytes:
    content = xml({"Name": "b", "IsTruncated": "false", **more, "Contents": fields})
    return f"<ListBucketResult>{content}</ListBucketResult>".encode("utf-8", "surrogatepass")


def entities(levels: int) -> bytes:
    """Ten to the power of the levels, in a few lines."""
    lines = [f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, levels)]
    whole = listing({**FIELDS, "Key": "KEY"}).replace(b"KEY", f"&a{levels - 1};".encode())
    return f'<!DOCTYPE x [<!ENTITY a0 "aaaaaaaaaa">{"".join(lines)}]>'.encode() + whole


XML = st.one_of(
    st.builds(
        lambda name, value: listing({**FIELDS, name: value}),
        st.sampled_from(sorted(FIELDS)),
        st.one_of(TEXTS, NUMBERS, st.none(), st.just({"Key": "x"})),
    ),
    st.builds(
        lambda name: listing({key: value for key, value in FIELDS.items() if key != name}),
        st.sampled_from(sorted(FIELDS)),
    ),
    torn(listing(FIELDS)),
    st.sampled_from([b"", b"<a/>", b"<html>", entities(9), b"<a>" * DEPTH]),
)


@cache
def _s3(bucket: str) -> S3Origin:
    # boto3 takes a tenth of a second to make a client.
    return S3Origin(parse_uri(f"s3://{bucket}/m"))


@pytest.fixture
def s3(server: Server, monkeypatch: pytest.MonkeyPatch) -> S3Origin:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setattr(s3client, "ATTEMPTS", 1)  # a broken answer is asked for again, later
    return _s3("bucket")


@FEW
@given(answer=XML)
@example(answer=entities(9))
@example(answer=listing({**FIELDS, "Size": "many"}))
@example(answer=listing({**FIELDS, "Size": "-1"}))
@example(answer=listing({**FIELDS, "LastModified": "never"}))
@example(answer=listing({**FIELDS, "LastModified": 10**14}))
def test_s3(server: Server, s3: S3Origin, answer: bytes) -> None:
    assume(b"\0" not in answer)
    server.says = lambda method, _: Answer(200 if method == "GET" else 404, body=answer)
    with ours():
        check(s3.resolve())


def test_a_list_of_s3_that_goes_on_for_ever(
    server: Server, s3: S3Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelcache.origins.paging.MOST_PAGES", 20)
    pages = iter(range(10_000))
    server.says = lambda _, __: Answer(
        200, body=listing(FIELDS, IsTruncated="true", NextContinuationToken=f"t{next(pages)}")
    )
    with pytest.raises(OriginUnavailable, match="a list without an end"):
        s3.resolve()
    assert next(pages) == 21


# Google Cloud Storage

ITEMS: dict[str, Any] = {
    "items": [
        {
            "name": "m/w.safetensors",
            "size": "7",
            "generation": "1234",
            "crc32c": "AAAAAA==",
            "md5Hash": "AAAAAAAAAAAAAAAAAAAAAA==",
        }
    ]
}


def _item(**fields: Any) -> bytes:
    return written({"items": [{**ITEMS["items"][0], **fields}]})


@cache
def _gcs(bucket: str) -> GcsOrigin:
    return GcsOrigin(parse_uri(f"gs://{bucket}/m"))


@pytest.fixture
def gcs(server: Server, monkeypatch: pytest.MonkeyPatch) -> GcsOrigin:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint)
    return _gcs("bucket")


@FEW
@given(answer=broken(ITEMS))
@example(answer=b"[" * DEPTH)
@example(answer=_item(size="-1"))
@example(answer=_item(size="many"))
@example(answer=_item(generation="../x"))
@example(answer=_item(name=5))
@example(answer=_item(crc32c=[1]))
@example(answer=_item(contentEncoding={}))
def test_gcs(server: Server, gcs: GcsOrigin, answer: bytes) -> None:
    server.says = lambda _, path: (
        Answer(200, headers=JSON, body=answer) if "?" in path and "/o?" in path else Answer(404)
    )
    with ours():
        revision = gcs.resolve()
        check(revision)
        for file in revision.files:
            gcs.locate(file)


def test_a_list_of_gcs_that_goes_on_for_ever(
    server: Server, gcs: GcsOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelcache.origins.paging.MOST_PAGES", 20)
    pages = iter(range(10_000))
    server.says = lambda _, __: Answer(
        200, headers=JSON, body=written({**ITEMS, "nextPageToken": f"t{next(pages)}"})
    )
    with pytest.raises(OriginUnavailable, match="a list without an end"):
        gcs.resolve()
    assert next(pages) == 21
