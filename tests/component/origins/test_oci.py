"""What only registries have: tags and digests, indexes, logins and tokens."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from modelcache.api import parse_uri
from modelcache.errors import (
    AuthFailed,
    ChecksumMismatch,
    ModelCacheError,
    NotFound,
    OriginUnavailable,
    RateLimited,
)
from modelcache.origins import (
    Origin,
    RemoteFile,
    Revision,
)
from modelcache.origins.oci import OciOrigin
from tests.component.origins.conftest import fetched
from tests.support.registry import (
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_MANIFEST,
    PASSWORD,
    TITLE,
    USER,
    Registry,
    RegistryStub,
    Reply,
    TokenServer,
    docker_config,
)
from tests.support.secrets import with_secret
from tests.support.tars import files, layer

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@pytest.fixture
def repository(tmp_path: Path) -> str:
    return f"oci/{sha256(str(tmp_path).encode()).hexdigest()[:20]}"


def origin_of(uri: str, machine: str = "x86_64") -> OciOrigin:
    return OciOrigin(parse_uri(uri), machine=machine)


def texts(*contents: bytes) -> list[tuple[bytes, str, dict[str, str]]]:
    return [(content, "text/plain", {TITLE: f"{n}.txt"}) for n, content in enumerate(contents)]


# Tags, digests, platforms


def test_a_tag_that_is_replaced_is_another_revision(registry: Registry, repository: str) -> None:
    uri = registry.uri(repository, ":v1")
    first = registry.push_artifact(repository, *texts(b"one"), tag="v1")
    before = origin_of(uri).resolve()
    registry.push_artifact(repository, *texts(b"two"), tag="v1")
    after = origin_of(uri).resolve()
    assert f"sha256:{before.id}" == first != f"sha256:{after.id}"
    # What was resolved is there still, as whoever pins it expects.
    for pinned in (registry.uri(repository, f"@{first}"), registry.uri(repository, f":v1@{first}")):
        origin = origin_of(pinned)
        (file,) = origin.resolve().files
        assert origin.resolve() == before
        assert fetched(origin.locate(file)) == b"one"


def test_without_a_tag_it_is_latest(registry: Registry, repository: str) -> None:
    digest = registry.push_artifact(repository, *texts(b"one"), tag="latest")
    assert f"sha256:{origin_of(registry.uri(repository)).resolve().id}" == digest


def multi_platform(registry: Registry, repository: str) -> dict[str, str]:
    """An index with an image for each of two architectures, and an attestation for each."""
    digests, manifests = {}, []
    for architecture in ("amd64", "arm64"):
        content = layer(files({"model": architecture.encode()}))
        digests[architecture] = registry.push_image(
            repository, content, tag=architecture, architecture=architecture
        )
        where = {"architecture": architecture, "os": "linux"}
        nowhere = {"architecture": "unknown", "os": "unknown"}
        about = {"vnd.docker.reference.type": "attestation-manifest"}
        attested = registry.descriptor(repository, architecture, platform=nowhere)
        manifests.append({**attested, "annotations": about})
        manifests.append(registry.descriptor(repository, architecture, platform=where))
    registry.push_index(repository, manifests)
    return digests


@pytest.mark.parametrize(
    ("machine", "architecture"),
    [("x86_64", "amd64"), ("aarch64", "arm64"), ("arm64", "arm64")],
)
def test_an_index_has_an_image_for_each_architecture(
    registry: Registry, repository: str, machine: str, architecture: str
) -> None:
    digests = multi_platform(registry, repository)
    revision = origin_of(registry.uri(repository), machine).resolve()
    assert f"sha256:{revision.id}" == digests[architecture]
    assert [archive.folder for archive in revision.archives] == ["models"]
    assert revision.archives[0].compression == "gzip"
    assert revision.files == ()


def test_an_architecture_that_is_not_there_is_told_with_those_that_are(
    registry: Registry, repository: str
) -> None:
    multi_platform(registry, repository)
    with pytest.raises(
        NotFound, match=r"no image for linux/s390x: .* 'linux/amd64', 'linux/arm64'$"
    ):
        origin_of(registry.uri(repository), "s390x").resolve()


def test_an_index_of_what_has_no_platform(registry: Registry, repository: str) -> None:
    digest = registry.push_artifact(repository, *texts(b"one"), tag="v1")
    registry.push_index(repository, [registry.descriptor(repository, "v1")])
    assert f"sha256:{origin_of(registry.uri(repository)).resolve().id}" == digest


def test_dockers_own_types_are_the_same(registry: Registry, repository: str) -> None:
    content, _ = layer(files({"a": b"1"}))
    registry.push_image(
        repository, (content, DOCKER_LAYER), media_type=DOCKER_MANIFEST, config_type=DOCKER_CONFIG
    )
    (archive,) = origin_of(registry.uri(repository)).resolve().archives
    assert (archive.compression, archive.folder) == ("gzip", "models")
    assert archive.blob.sha256 == sha256(content).hexdigest()


def test_what_is_not_there(registry: Registry, repository: str) -> None:
    said = (
        r":latest: .*no such image, tag or digest \(MANIFEST_UNKNOWN\); without a tag it is latest"
    )
    with pytest.raises(NotFound, match=said):
        origin_of(registry.uri(repository)).resolve()
    registry.push_artifact(repository, *texts(b"one"), tag="v1")
    for reference in (":v2", f"@sha256:{'0' * 64}"):
        with pytest.raises(NotFound, match=rf"{repository}{reference}: .*digest \S+$"):
            origin_of(registry.uri(repository, reference)).resolve()


# Who is asking


@pytest.fixture(scope="module")
def guarded() -> Iterator[Registry]:
    """A registry that wants a user and a password."""
    with Registry(basic=True) as server:
        server.push_artifact("private/model", *texts(b"secret weights"))
        yield server


def with_config(path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    folder = path / "docker"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(text)
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))


def contents(origin: Origin) -> list[bytes]:
    return [fetched(origin.locate(file)) for file in origin.resolve().files]


def test_without_a_login_it_says_what_to_do(guarded: Registry) -> None:
    uri = guarded.uri("private/model")
    with pytest.raises(AuthFailed, match="set secretName to an imagePullSecret, or DOCKER_CONFIG"):
        origin_of(uri).resolve()


def test_dockers_own_configuration(
    guarded: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = guarded.uri("private/model")
    with_config(tmp_path, monkeypatch, docker_config(guarded.host))
    assert contents(origin_of(uri)) == [b"secret weights"]
    # And at once, as the agent does it with what was resolved before.
    (file,) = origin_of(uri).resolve().files
    assert fetched(origin_of(uri).locate(file)) == b"secret weights"
    with_config(tmp_path, monkeypatch, docker_config(guarded.host, password="wrong"))
    with pytest.raises(AuthFailed, match="refuses the login"):
        origin_of(uri).resolve()
    with_config(tmp_path, monkeypatch, docker_config("elsewhere.example.com"))
    with pytest.raises(AuthFailed, match="wants a login"):
        origin_of(uri).resolve()


def test_an_image_pull_secret(guarded: Registry, tmp_path: Path) -> None:
    uri = guarded.uri("private/model")
    origin = with_secret(tmp_path, uri, None, dockerconfigjson=docker_config(guarded.host))
    assert contents(origin) == [b"secret weights"]
    assert PASSWORD not in repr((origin, origin.resolve()))


def test_a_secret_with_user_and_password(guarded: Registry, tmp_path: Path) -> None:
    uri = guarded.uri("private/model")
    keys = {"username": USER, "password": PASSWORD}
    with pytest.raises(AuthFailed, match="does not say where it may be sent"):
        with_secret(tmp_path, uri, None, **keys)
    assert contents(with_secret(tmp_path, uri, **keys, hosts="127.0.0.1")) == [b"secret weights"]
    with pytest.raises(AuthFailed, match="add it to the secret's key 'hosts'"):
        with_secret(tmp_path, uri, **keys, hosts="registry.example.com")


def test_a_secret_for_another_registry_is_not_sent(tmp_path: Path) -> None:
    wanted = {"WWW-Authenticate": 'Basic realm="x"'}
    with RegistryStub({"/": Reply(401, headers=wanted)}) as stub:
        uri = f"oci://{stub.host}/private/model"
        with pytest.raises(AuthFailed, match="has no login for"):
            with_secret(tmp_path, uri, None, dockerconfigjson=docker_config("127.0.0.1:1"))
        assert stub.requests == []


@pytest.fixture(scope="module")
def tokens() -> Iterator[TokenServer]:
    with TokenServer() as server:
        yield server


@pytest.fixture(scope="module")
def with_tokens(tokens: TokenServer) -> Iterator[Registry]:
    """A registry that wants a token."""
    with Registry(tokens=tokens) as server:
        server.push_artifact("private/model", *texts(b"secret weights"))
        yield server


def test_a_token_is_asked_for_with_the_login(
    tokens: TokenServer, with_tokens: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens.asked.clear()
    with_config(tmp_path, monkeypatch, docker_config(with_tokens.host))
    origin = origin_of(with_tokens.uri("private/model"))
    (file,) = origin.resolve().files
    location = origin.locate(file)
    assert fetched(location) == b"secret weights"
    assert location.headers["Authorization"].startswith("Bearer ")
    assert "Bearer" not in repr((origin, location))
    ((query, _),) = tokens.asked
    assert query["scope"] == ["repository:private/model:pull"]
    assert query["service"] == ["tests"]


def test_a_token_is_renewed_when_it_has_had_its_time(
    tokens: TokenServer, with_tokens: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_config(tmp_path, monkeypatch, docker_config(with_tokens.host))
    origin = origin_of(with_tokens.uri("private/model"))
    (file,) = origin.resolve().files
    tokens.asked.clear()
    # The third time nothing has expired: who asks for the same file again was refused.
    for asked in (0, 1, 2):
        origin.locate(file)
        assert len(tokens.asked) == asked
        known = origin._client._known
        assert known is not None
        if asked == 0:
            assert 100 < known.until - time.monotonic() < tokens.seconds
            origin._client._known = replace(known, until=time.monotonic())
    assert fetched(origin.locate(file)) == b"secret weights"


def test_a_token_for_anybody(tokens: TokenServer, with_tokens: Registry) -> None:
    origin = origin_of(with_tokens.uri("private/model"))
    with pytest.raises(AuthFailed, match="wants a login"):
        origin.resolve()
    tokens.public = True
    try:
        assert contents(origin) == [b"secret weights"]
    finally:
        tokens.public = False


def test_a_token_for_anybody_that_is_not_enough() -> None:
    """As Docker Hub answers for what is private, or not there."""
    with RegistryStub({}) as stub:
        wanted = f'Bearer realm="http://{stub.host}/token",service="x"'
        stub.replies["/token"] = Reply(200, b'{"token": "anybody"}')
        stub.replies["/v2/"] = Reply(401, headers={"WWW-Authenticate": wanted})
        said = "wants a login: the repository is private, or there is none; .* set secretName"
        with pytest.raises(AuthFailed, match=said):
            origin_of(f"oci://{stub.host}/a/b").resolve()
        assert stub.authorizations[-1] == "Bearer anybody"


def test_a_token_is_renewed_by_what_was_asked_for_and_not_by_asking_again() -> None:
    """There are registries whose /v2/ wants nothing of anybody."""
    with RegistryStub({}) as stub:
        wanted = f'Bearer realm="http://{stub.host}/token",service="x"'
        stub.replies["/token"] = Reply(200, b'{"token": "first"}')
        stub.replies["/v2/a/b/"] = Reply(401, headers={"WWW-Authenticate": wanted})
        stub.replies["/v2/"] = Reply(200)
        origin = origin_of(f"oci://{stub.host}/a/b")
        with pytest.raises(AuthFailed):
            origin.resolve()
        file = RemoteFile("a", "sha256:x", 1, "sha256:x", sha256="0" * 64)
        assert origin.locate(file).headers == {"Authorization": "Bearer first"}
        stub.replies["/token"] = Reply(200, b'{"token": "second"}')
        assert origin.locate(file).headers == {"Authorization": "Bearer second"}


def test_a_wrong_password_at_the_token_server(
    with_tokens: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_config(tmp_path, monkeypatch, docker_config(with_tokens.host, password="wrong"))
    with pytest.raises(AuthFailed, match="refuses the login"):
        origin_of(with_tokens.uri("private/model")).resolve()


def test_a_secret_goes_to_a_token_server_that_it_names_and_to_no_other(
    tokens: TokenServer, with_tokens: Registry, tmp_path: Path
) -> None:
    tokens.asked.clear()
    uri = with_tokens.uri("private/model")
    config = docker_config(with_tokens.host)
    origin = with_secret(tmp_path, uri, None, dockerconfigjson=config)
    with pytest.raises(AuthFailed, match="add it to the secret's key 'hosts'"):
        origin.resolve()
    assert tokens.asked == []
    server = tokens.url.removeprefix("http://")
    assert contents(with_secret(tmp_path, uri, dockerconfigjson=config, hosts=server))


@pytest.mark.parametrize(
    "realm",
    [
        *("http://registry.example.com/token", "ftp://127.0.0.1/", "", "https://"),
        *("//127.0.0.1", "https://[bad", "https://h:99999/"),
    ],
)
def test_a_token_server_without_tls_is_refused(
    realm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'}
    with RegistryStub({"/v2/": Reply(401, headers=wanted)}) as stub:
        with_config(tmp_path, monkeypatch, docker_config(stub.host))
        with pytest.raises(AuthFailed, match="not https"):
            origin_of(f"oci://{stub.host}/a/b").resolve()


def test_an_identity_token_is_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RegistryStub({}) as stub:
        wanted = f'Bearer realm="http://{stub.host}/token",service="x"'
        token = json.dumps({"access_token": "abc", "expires_in": 60}).encode()
        stub.replies["/token"] = Reply(200, token)
        stub.replies["/v2/"] = Reply(401, headers={"WWW-Authenticate": wanted})
        config = {"auths": {stub.host: {"auth": "", "identitytoken": "refresh"}}}
        with_config(tmp_path, monkeypatch, json.dumps(config))
        with pytest.raises(AuthFailed, match="refuses the login"):
            origin_of(f"oci://{stub.host}/a/b").resolve()
        assert "/token" in stub.requests
        assert stub.authorizations[-1] == "Bearer abc"


# Without TLS only to this machine; Docker Hub


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("oci://quay.io/a/b", "https://quay.io/v2/a/b/blobs/"),
        ("oci://registry:5000/a", "https://registry:5000/v2/a/blobs/"),
        ("oci://docker.io/a", "https://registry-1.docker.io/v2/library/a/blobs/"),
        ("oci://docker.io/a/b", "https://registry-1.docker.io/v2/a/b/blobs/"),
        ("oci://localhost:5000/a", "http://localhost:5000/v2/a/blobs/"),
        ("oci://127.1.2.3/a", "http://127.1.2.3/v2/a/blobs/"),
        ("oci://[::1]:5000/a", "http://[::1]:5000/v2/a/blobs/"),
        ("oci://localhost.example.com/a", "https://localhost.example.com/v2/a/blobs/"),
    ],
)
def test_where_blobs_are(uri: str, url: str) -> None:
    digest = f"sha256:{'0' * 64}"
    assert origin_of(uri)._client.blob_url(digest) == url + digest


# Registries that lie


def document(**changes: Any) -> bytes:
    """A manifest of one layer."""
    empty = {"mediaType": OCI_EMPTY, "digest": f"sha256:{sha256(b'{}').hexdigest()}", "size": 2}
    title = {"annotations": {TITLE: "a"}, "mediaType": "text/plain"}
    given = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": empty,
        "layers": [{**empty, **title, **changes.pop("layer", {})}],
        **changes,
    }
    return json.dumps({key: value for key, value in given.items() if value is not None}).encode()


def resolved(body: bytes, reference: str = ":v1", **reply: Any) -> Revision:
    with RegistryStub({"/v2/a/b/manifests/": Reply(body=body, **reply)}) as stub:
        return origin_of(f"oci://{stub.host}/a/b{reference}").resolve()


def test_the_stubs_document_is_a_good_one() -> None:
    body = document()
    revision = resolved(body)
    assert revision.id == sha256(body).hexdigest()
    assert [file.path for file in revision.files] == ["a"]


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        (b"<html>", OriginUnavailable, "can't be read"),
        (b"[]", OriginUnavailable, "can't be read"),
        (b"[" * 100_000, OriginUnavailable, "can't be read"),
        (document(schemaVersion=1, mediaType=None, layers=None), OriginUnavailable, "schema 1"),
        (
            document(mediaType="application/vnd.docker.distribution.manifest.v1+prettyjws"),
            OriginUnavailable,
            "schema 1",
        ),
        (document(manifests=[]), OriginUnavailable, "an index as well"),
        (document(layers=[]), NotFound, "no layers"),
        (document(layers=None), OriginUnavailable, "layers"),
        (document(layer={"digest": "sha256:../../../etc/passwd"}), OriginUnavailable, "digest"),
        (document(layer={"digest": f"sha512:{'0' * 128}"}), OriginUnavailable, "digest"),
        (document(layer={"digest": f"sha256:{'0' * 64}\n"}), OriginUnavailable, "digest"),
        (document(layer={"size": -1}), OriginUnavailable, "size"),
        (document(layer={"annotations": {}}), NotFound, "a layer without a name"),
        (
            document(
                config={"mediaType": OCI_CONFIG, "digest": f"sha256:{'0' * 64}", "size": 2},
                layer={"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"},
            ),
            NotFound,
            "no tar archive",
        ),
        (b" " * (4 * 1024 * 1024 + 1), OriginUnavailable, "longer than"),
    ],
)
def test_documents_that_are_refused(body: bytes, error: type[ModelCacheError], said: str) -> None:
    with pytest.raises(error, match=said):
        resolved(body)


def test_a_manifest_is_what_its_digest_says() -> None:
    body = document()
    digest = f"sha256:{sha256(body).hexdigest()}"
    assert f"sha256:{resolved(body, f'@{digest}').id}" == digest
    with pytest.raises(ChecksumMismatch):
        resolved(body + b" ", f"@{digest}")
    with pytest.raises(ChecksumMismatch):
        resolved(body, headers={"Docker-Content-Digest": f"sha256:{'0' * 64}"})


def test_the_manifest_that_an_index_names_is_checked_too() -> None:
    image = document()
    described = {"mediaType": OCI_MANIFEST, "digest": f"sha256:{sha256(image).hexdigest()}"}

    def index(size: int) -> bytes:
        return json.dumps({"schemaVersion": 2, "manifests": [{**described, "size": size}]}).encode()

    for size, served, error in (
        (len(image), image, None),
        (len(image), image + b" ", ChecksumMismatch),
        (len(image) + 1, image, ChecksumMismatch),
    ):
        replies = {
            "/v2/a/b/manifests/v1": Reply(body=index(size)),
            "/v2/a/b/manifests/sha256:": Reply(body=served),
        }
        with RegistryStub(replies) as stub:
            origin = origin_of(f"oci://{stub.host}/a/b:v1")
            if error is None:
                assert origin.resolve().files
                continue
            with pytest.raises(error):
                origin.resolve()


def test_an_index_that_leads_to_itself() -> None:
    body = json.dumps({"schemaVersion": 2, "manifests": []})
    with RegistryStub({}) as stub:
        for number in range(9):
            digest = f"sha256:{sha256(body.encode()).hexdigest()}"
            stub.replies[f"/v2/a/b/manifests/{digest}"] = Reply(body=body.encode())
            named = {"mediaType": "x", "digest": digest, "size": len(body), "number": number}
            body = json.dumps({"schemaVersion": 2, "manifests": [named]})
        stub.replies["/v2/a/b/manifests/v1"] = Reply(body=body.encode())
        with pytest.raises(OriginUnavailable, match="an index of indexes"):
            origin_of(f"oci://{stub.host}/a/b:v1").resolve()


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (Reply(429, headers={"Retry-After": "7"}), RateLimited, "fewer requests"),
        (Reply(503, headers={"Retry-After": "7"}), OriginUnavailable, "answers 503"),
        (Reply(403, b'{"errors":[{"code":"DENIED"}]}'), AuthFailed, r"refuses access \(DENIED\)"),
        (Reply(401), AuthFailed, "wants a login"),
        (Reply(302, headers={"Location": "https://[bad"}), OriginUnavailable, "not HTTP"),
        (Reply(404, b'{"errors":[]}'), NotFound, "no such image"),
        (Reply(418, b"<html>"), OriginUnavailable, "answers 418"),
        (Reply(302, headers={"Location": "/v2/a/b/manifests/v1"}), OriginUnavailable, "circles"),
        (Reply(302, headers={"Location": "http://example.com/"}), OriginUnavailable, "TLS"),
    ],
)
def test_refusals(reply: Reply, error: type[ModelCacheError], said: str) -> None:
    with RegistryStub({"/v2/": reply}) as stub:
        origin = origin_of(f"oci://{stub.host}/a/b:v1")
        with pytest.raises(error, match=said) as caught:
            origin.resolve()
    if "Retry-After" in reply.headers:
        assert isinstance(caught.value, OriginUnavailable)
        assert caught.value.retry_after == 7


def test_nobody_there() -> None:
    with RegistryStub({}) as stub:
        host = stub.host
    with pytest.raises(OriginUnavailable, match="can't be reached"):
        origin_of(f"oci://{host}/a/b").resolve()


def test_a_redirect_to_another_host_takes_no_login_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To another port of this machine: without TLS nothing else is followed."""
    with RegistryStub({"/": Reply(body=document())}) as other, RegistryStub({}) as stub:
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        with_config(tmp_path, monkeypatch, docker_config(stub.host))
        origin = origin_of(f"oci://{stub.host}/a/b:v1")
        manifest = "/v2/a/b/manifests/v1"
        stub.replies[manifest] = Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        with pytest.raises(AuthFailed):
            origin.resolve()
        there = {"Location": f"http://{other.host}/elsewhere"}
        stub.replies[manifest] = Reply(307, headers=there)
        assert [file.path for file in origin.resolve().files] == ["a"]
        assert stub.authorizations[-1] == f"Basic {login}"
        assert (other.requests, other.authorizations) == (["/elsewhere"], [None])
