"""What only a registry has: images, tags, tokens, uploads that lead elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
import zstandard

from modelcache.api import parse_uri
from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.mcv import labels
from modelcache.compilecache.bundles.unpacking import check
from modelcache.compilecache.places.images import (
    ENVELOPE_FIELD,
    config_of,
    envelope_of,
    image_of,
    placed_of,
    tag_of,
)
from modelcache.compilecache.places.oci import MAX_IMAGES, OciPlace
from modelcache.compilecache.places.protocol import Placed
from modelcache.errors import (
    AuthFailed,
    BrokenBundle,
    BrokenContent,
    ChecksumMismatch,
    ModelCacheError,
    NotFound,
    OriginUnavailable,
    RateLimited,
    UsageError,
)
from modelcache.origins import Network, SecretStore
from tests.component.origins.conftest import fetched
from tests.support.bundles import a_bundle, a_key, noise
from tests.support.registry import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    PASSWORD,
    Registry,
    RegistryStub,
    Reply,
    TokenServer,
    docker_config,
)

NETWORK = Network()


@pytest.fixture
def repository(tmp_path: Path) -> str:
    return f"bundles/{sha256(str(tmp_path).encode()).hexdigest()[:20]}"


@pytest.fixture
def place(registry: Registry, repository: str) -> OciPlace:
    return opened(registry.host, repository)


def opened(host: str, repository: str = "team/bundles") -> OciPlace:
    return OciPlace(parse_uri(f"oci://{host}/{repository}"), secret=None, network=NETWORK)


def test_a_bundle_is_an_image_that_others_can_read(
    place: OciPlace, registry: Registry, repository: str, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b", noise(50_000))
    statement = bundle.statement
    place.publish(bundle)
    tag = _tag(bundle)
    assert len(tag) <= 128
    answer = registry.ask("GET", f"/v2/{repository}/manifests/{tag}", Accept=OCI_MANIFEST)
    manifest = json.loads(answer.data)
    assert manifest["mediaType"] == OCI_MANIFEST
    assert manifest["config"]["mediaType"] == OCI_CONFIG
    (layer,) = manifest["layers"]
    assert layer == {
        "mediaType": f"{OCI_LAYER}+zstd",
        "digest": statement.archive.digest,
        "size": statement.archive.size,
    }
    assert manifest["annotations"]["dev.modelcache.digest"] == statement.digest
    blob = registry.ask("GET", f"/v2/{repository}/blobs/{manifest['config']['digest']}").data
    config = json.loads(blob)
    assert (config["architecture"], config["os"]) == ("amd64", "linux")
    assert config["config"]["Labels"] == labels(statement, check(bundle.archive, statement))
    with bundle.archive.open("rb") as file:
        plain = zstandard.ZstdDecompressor().stream_reader(file).read()
    assert config["rootfs"]["diff_ids"] == [f"sha256:{sha256(plain).hexdigest()}"]
    assert config[ENVELOPE_FIELD].encode() == bundle.envelope_bytes


def test_the_labels_of_a_vllm_cache_are_there(
    place: OciPlace, registry: Registry, repository: str, tmp_path: Path
) -> None:
    path = f"vllm/torch_compile_cache/{'0123456789'}/rank_0_0/backbone/artifact"
    bundle = a_bundle(tmp_path / "b", noise(5000), path=path, compression="gzip")
    place.publish(bundle)
    (placed,) = place.generations(bundle.statement.key.digest)
    answer = registry.ask("GET", f"/v2/{repository}/manifests/{placed.token}", Accept=OCI_MANIFEST)
    digest = json.loads(answer.data)["config"]["digest"]
    config = json.loads(registry.ask("GET", f"/v2/{repository}/blobs/{digest}").data)
    assert config["config"]["Labels"]["io.kserve.km/framework"] == "vllm"
    assert json.loads(answer.data)["layers"][0]["mediaType"] == f"{OCI_LAYER}+gzip"


def test_other_images_of_the_repository_are_no_bundles(
    place: OciPlace, registry: Registry, repository: str, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b")
    key, digest = bundle.statement.key.digest, bundle.digest
    place.publish(bundle)
    for tag in ("latest", "v1", "f" * 108):
        registry.push_image(repository, (b"layer", OCI_LAYER), tag=tag)
    # One whose tag says that it is a bundle, and one that says it is this one.
    registry.push_image(repository, (b"layer", OCI_LAYER), tag=_tag(bundle)[:-32] + "0" * 32)
    own = f"/v2/{repository}/manifests/{_tag(bundle)}"
    manifest = json.loads(registry.ask("GET", own, Accept=OCI_MANIFEST).data)
    registry.push_manifest(repository, _tag(bundle)[:-32] + "1" * 32, manifest)
    (placed,) = place.generations(key)
    assert placed.digest == digest
    assert place.keys() == (key,)
    registry.push_image(repository, (b"layer", OCI_LAYER), tag=_tag(bundle))
    assert place.generations(key) == ()
    assert place.find(digest) is None
    assert place.publish(bundle), "what is no bundle gives way"
    assert place.find(digest) == placed


def test_an_image_without_an_envelope_is_told(
    place: OciPlace, registry: Registry, repository: str
) -> None:
    key, digest = "a" * 64, f"sha256:{'b' * 64}"
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": registry.push_blob(repository, b'{"os": "linux"}', OCI_CONFIG),
        "layers": [registry.push_blob(repository, b"layer", OCI_LAYER)],
        "annotations": {
            "dev.modelcache.key": key,
            "dev.modelcache.digest": digest,
            "org.opencontainers.image.created": "2026-11-22T00:00:00Z",
        },
    }
    moment = datetime(2026, 11, 22, tzinfo=UTC)
    registry.push_manifest(repository, tag_of(key, digest, moment), document)
    (placed,) = place.generations(key)
    with pytest.raises(BrokenBundle, match="without a bundle's envelope"):
        place.envelope(placed)


def test_what_a_registry_gives_is_what_its_digest_says(tmp_path: Path) -> None:
    bundle = a_bundle(tmp_path / "b")
    statement = bundle.statement
    image = image_of(bundle, check(bundle.archive, statement))
    digest = f"sha256:{sha256(image.manifest).hexdigest()}"
    path = "/v2/team/bundles"
    replies = {
        f"{path}/manifests/": Reply(body=image.manifest, headers={"Content-Type": OCI_MANIFEST}),
        f"{path}/blobs/": Reply(body=image.config),
    }
    placed = Placed(statement.digest, statement.key.digest, statement.created_at, 1, digest)
    with RegistryStub(replies) as stub:
        assert opened(stub.host).envelope(placed) == bundle.envelope_bytes
        stub.replies[f"{path}/blobs/"] = Reply(body=image.config + b" ")
        with pytest.raises(ChecksumMismatch, match="is another blob"):
            opened(stub.host).envelope(placed)
        stub.replies[f"{path}/manifests/"] = Reply(body=image.manifest + b" ")
        with pytest.raises(ChecksumMismatch):
            opened(stub.host).envelope(placed)


def test_a_tag_or_a_digest_is_no_place(registry: Registry) -> None:
    for end in (":latest", f"@sha256:{'0' * 64}"):
        with pytest.raises(UsageError, match="without a tag or digest"):
            opened(registry.host, f"team/bundles{end}")


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    with TokenServer() as server:
        yield server


def test_who_reads_asks_for_no_right_to_write(
    tokens: TokenServer, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = a_bundle(tmp_path / "b", noise(50_000))
    with Registry(tokens=tokens) as registry:
        (tmp_path / "config.json").write_text(docker_config(registry.host))
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        place = opened(registry.host, repository)
        assert place.publish(bundle)
        asked = [query["scope"][0].rpartition(":")[2] for query, _ in tokens.asked]
        assert set(asked) == {"pull", "pull,push"}
        tokens.asked.clear()
        reader = opened(registry.host, repository)
        (placed,) = reader.generations(bundle.statement.key.digest)
        assert reader.envelope(placed) == bundle.envelope_bytes
        location = reader.locate(placed, bundle.statement.archive)
        assert fetched(location) == bundle.archive.read_bytes()
        asked = [query["scope"][0].rpartition(":")[2] for query, _ in tokens.asked]
        assert set(asked) == {"pull"}
        tokens.asked.clear()
        place.remove(placed)
        (query, _), *_ = tokens.asked
        assert query["scope"][0].endswith(":pull,push,delete")


def test_a_login_of_a_secret(repository: str, tmp_path: Path) -> None:
    bundle = a_bundle(tmp_path / "b")
    mounted = tmp_path / "secrets" / "registry"
    mounted.mkdir(parents=True)
    with Registry(basic=True) as registry:
        (mounted / ".dockerconfigjson").write_text(docker_config(registry.host))
        uri = parse_uri(f"oci://{registry.host}/{repository}")
        secret = SecretStore(tmp_path / "secrets").read("registry")
        assert OciPlace(uri, secret=secret, network=NETWORK).publish(bundle)
        with pytest.raises(AuthFailed, match="wants a login") as caught:
            OciPlace(uri, secret=None, network=NETWORK).publish(bundle)
        assert PASSWORD not in str(caught.value)
        (mounted / ".dockerconfigjson").write_text(docker_config("other.example"))
        other = SecretStore(tmp_path / "secrets").read("registry")
        with pytest.raises(AuthFailed, match="has no login"):
            OciPlace(uri, secret=other, network=NETWORK)


def test_tags_come_in_pages() -> None:
    names = [f"{number:064x}-{number:010}-{number:032x}" for number in range(5)]
    path = "/v2/team/bundles/tags/list?n=1000"
    more = {"Link": f'<{path}&last=x>; rel="next"'}
    replies = {
        f"{path}&last={names[1]}": Reply(
            body=json.dumps({"tags": names[2:4]}).encode(), headers=more
        ),
        f"{path}&last={names[3]}": Reply(body=json.dumps({"tags": names[4:]}).encode()),
        path: Reply(body=json.dumps({"tags": names[:2]}).encode(), headers=more),
    }
    with RegistryStub(replies) as stub:
        assert opened(stub.host).keys() == tuple(f"{number:064x}" for number in range(5))


def test_tags_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelcache.origins.ociwriting.MAX_TAGS", 50)
    path = "/v2/team/bundles/tags/list"
    more = {"Link": f'<{path}?last=x>; rel="next"'}
    body = json.dumps({"tags": ["a"] * 10}).encode()
    with RegistryStub({path: Reply(body=body, headers=more)}) as stub:
        with pytest.raises(BrokenContent, match="more than 50 tags"):
            opened(stub.host).keys()
        assert len(stub.requests) == 6


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"tags": 5}', b"[" * 100_000])
def test_tags_that_can_t_be_read(body: bytes) -> None:
    stub = RegistryStub({"/v2/team/bundles/tags": Reply(body=body)})
    with stub, pytest.raises(BrokenContent, match="can't be read"):
        opened(stub.host).keys()


def test_what_is_too_much_for_a_bundle_is_not_read() -> None:
    """To tell what is wrong in 4 MiB of a manifest takes 930 MiB; a registry may be anybody's."""
    many = b"[" + b"1," * 2_000_000 + b"1]"
    tag = f"{'0' * 64}-{'0' * 10}-{'0' * 32}"
    with pytest.raises(BrokenBundle, match="longer than any bundle's"):
        config_of(b'{"layers":' + many + b"}", "x")
    with pytest.raises(BrokenBundle, match="more parts than any bundle's"):
        envelope_of(b'{"%b":"x","a":%b}' % (ENVELOPE_FIELD.encode(), many), "x")
    took = []
    for _ in range(3):  # others may have the processor in one of them
        began = time.monotonic()
        assert placed_of(b'{"layers":' + many + b"}", "sha256:" + "0" * 64, tag) is None
        took.append(time.monotonic() - began)
    assert min(took) < 0.5  # by its length alone; reading it takes seconds
    stub = RegistryStub({"/v2/team/bundles/tags": Reply(body=b'{"tags":' + many + b"}")})
    with stub, pytest.raises(BrokenContent, match="more than 100,000 tags"):
        opened(stub.host).keys()


UPLOADS = "/v2/team/bundles/blobs/uploads/"
BEGUN = Reply(202, headers={"Location": "/upload/1?state=x"})
DONE = Reply(201)


@pytest.mark.parametrize(
    ("replies", "error", "said"),
    [
        ({f"POST {UPLOADS}": Reply(401)}, AuthFailed, "wants a login"),
        ({f"POST {UPLOADS}": Reply(403)}, AuthFailed, "refuses access"),
        ({f"POST {UPLOADS}": Reply(404)}, NotFound, "create it there"),
        ({f"POST {UPLOADS}": Reply(429)}, RateLimited, "fewer requests"),
        ({f"POST {UPLOADS}": Reply(202)}, OriginUnavailable, "where to upload"),
        (
            {f"POST {UPLOADS}": Reply(202, headers={"Location": "ftp://elsewhere/1"})},
            OriginUnavailable,
            "not HTTP",
        ),
        ({f"POST {UPLOADS}": BEGUN, "PUT /upload/1": Reply(413)}, OriginUnavailable, "that large"),
        ({f"POST {UPLOADS}": BEGUN, "PUT /upload/1": Reply(500)}, OriginUnavailable, "answers 500"),
        (
            {
                f"POST {UPLOADS}": BEGUN,
                "PUT /upload/1": Reply(
                    201, headers={"Docker-Content-Digest": f"sha256:{'0' * 64}"}
                ),
            },
            ChecksumMismatch,
            "was sent",
        ),
        (
            {
                f"POST {UPLOADS}": BEGUN,
                "PUT /upload/1": DONE,
                "PUT /v2/team/bundles/manifests/": Reply(400),
            },
            OriginUnavailable,
            "answers 400",
        ),
    ],
)
def test_what_refusals_of_an_upload_mean(
    replies: dict[str, Reply], error: type[ModelCacheError], said: str, tmp_path: Path
) -> None:
    stub = RegistryStub(replies)
    with stub, pytest.raises(error, match=said):
        opened(stub.host).publish(a_bundle(tmp_path / "b"))


def test_an_upload_that_leads_elsewhere_takes_no_login_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RegistryStub({"/elsewhere": DONE}) as other:
        begun = Reply(202, headers={"Location": f"http://{other.host}/elsewhere"})
        replies = {
            "HEAD ": Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'}),
            f"POST {UPLOADS}": begun,
            "PUT /v2/team/bundles/manifests/": DONE,
        }
        with RegistryStub(replies) as stub:
            (tmp_path / "config.json").write_text(docker_config(stub.host))
            monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
            assert opened(stub.host).publish(a_bundle(tmp_path / "b"))
            assert stub.authorizations[-1], "the registry is told who asks"
        assert other.requests
        assert not any(other.authorizations)


def test_a_registry_that_lets_nothing_be_deleted(tmp_path: Path) -> None:
    with RegistryStub({"DELETE ": Reply(405)}) as stub:
        bundle = a_bundle(tmp_path / "b")
        statement = bundle.statement
        placed = Placed(
            statement.digest, a_key().digest, statement.created_at, 1, f"sha256:{'1' * 64}"
        )
        with pytest.raises(AuthFailed, match="lets nothing be deleted"):
            opened(stub.host).remove(placed)


def test_the_newest_of_a_thousand_generations_cost_a_request_each() -> None:
    """Tags are in the order of letters; digests, in any."""
    key, start = a_key().digest, datetime(2026, 1, 1, tzinfo=UTC)
    replies, tags, digests = {}, [], []
    for number in range(1000):
        digest = f"sha256:{sha256(str(number).encode()).hexdigest()}"
        created = start + timedelta(hours=number)
        tags.append(tag_of(key, digest, created))
        digests.append(digest)
        manifest = {
            "schemaVersion": 2,
            "config": {"digest": digest, "size": 1},
            "layers": [{"digest": digest, "size": number}],
            "annotations": {
                "dev.modelcache.key": key,
                "dev.modelcache.digest": digest,
                "org.opencontainers.image.created": created.isoformat(),
            },
        }
        reply = Reply(body=json.dumps(manifest).encode(), headers={"Content-Type": OCI_MANIFEST})
        replies[f"/v2/team/bundles/manifests/{tags[-1]}"] = reply
    others = [tag_of(a_key("org/other").digest, digest, start) for digest in digests[:50]]
    listed = json.dumps({"tags": sorted(tags + others)}).encode()
    replies["/v2/team/bundles/tags/list"] = Reply(body=listed)
    with RegistryStub(replies) as stub:
        found = opened(stub.host).generations(key, 8)
        assert [placed.digest for placed in found] == digests[:-9:-1]
        assert len(stub.requests) == 1 + 8
        stub.requests.clear()
        assert opened(stub.host).find(digests[3], key) is not None
        assert len(stub.requests) == 1 + 1
        stub.requests.clear()
        newest = opened(stub.host).generations(key)
        assert [placed.digest for placed in newest] == digests[: -MAX_IMAGES - 1 : -1]
        assert len(stub.requests) == 1 + MAX_IMAGES


def test_a_tag_of_another_time_is_of_no_bundle(
    place: OciPlace, registry: Registry, repository: str, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b")
    statement = bundle.statement
    place.publish(bundle)
    named = f"/v2/{repository}/manifests/{_tag(bundle)}"
    manifest = json.loads(registry.ask("GET", named, Accept=OCI_MANIFEST).data)
    later = statement.created_at + timedelta(days=1)
    tag = tag_of(statement.key.digest, statement.digest, later)
    registry.push_manifest(repository, tag, manifest)
    (placed,) = place.generations(statement.key.digest)
    assert placed.created == statement.created_at


def _tag(bundle: LocalBundle) -> str:
    statement = bundle.statement
    return tag_of(statement.key.digest, statement.digest, statement.created_at)
