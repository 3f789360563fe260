"""A mirror is asked first, trusted with little, and left for the origin when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from modelcache.origins import HttpLocation, Mirror, Network, Origin, RemoteFile, Revision
from modelcache.origins.credentials import SecretStore
from modelcache.origins.mirrors import MirroredOrigin
from modelcache.transfer.events import FetchEnded, MirrorFailed
from tests.component.transfer.conftest import MakeFetching
from tests.support.cluster.certificates import Authority
from tests.support.fetching import QUICK, Fetching
from tests.support.gcs import GcsServer
from tests.support.hub import (
    Fault,
    FlipBit,
    GeneratedContent,
    HubServer,
    IgnoreRange,
    Reset,
    ShortBody,
    Source,
    Status,
    WrongContentRange,
    WrongLength,
)
from tests.support.registry import TITLE, Registry
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.tls import TlsFront
from tests.support.web import WebServer

MIB = 1024 * 1024
URI = "hf://org/model"
WEIGHTS = "model.safetensors"
CONTENT = GeneratedContent(40 * MIB + 5, seed=3)
FILES: dict[str, Source] = {WEIGHTS: CONTENT, "config.json": b"{}"}
SIZE = CONTENT.size + 2
TOKEN = "hf_planted"


@pytest.fixture
def mirror() -> Iterator[HubServer]:
    """A second Hub with the same content, as a mirror of the first."""
    with HubServer(hosts=("127.0.0.3", "127.0.0.3")) as server:
        server.add_repo("org/model", FILES)
        yield server


@pytest.fixture
def fetching(hub: HubServer, mirror: HubServer, make_fetching: MakeFetching) -> Fetching:
    commit = hub.add_repo("org/model", FILES)
    assert commit in mirror._backend.repositories["org/model"].commits, "not the same commit"
    return make_fetching(mirrors=(Mirror("hf", mirror.url),))


def mirrored(fetching: Fetching) -> int:
    return fetching.told(FetchEnded)[-1].mirrored


def test_all_bytes_come_from_the_mirror(
    hub: HubServer, mirror: HubServer, fetching: Fetching
) -> None:
    manifest = fetching.fetch("model", URI)
    assert fetching.store.verify(manifest) == []
    assert hub.bytes_sent() == 0
    assert mirror.bytes_sent() == SIZE == mirrored(fetching)
    assert not any("/api/" in request.path for request in mirror.requests)


FAULTS: list[Fault] = [
    Status(404, times=None),
    Status(500, times=None),
    Status(503, times=None, retry_after=1),
    Status(401, times=None),
    Reset(after=MIB, times=None),
    ShortBody(after=MIB, times=None),
    WrongLength(delta=-5, times=None),
    WrongContentRange(shift=1, times=None),
    FlipBit(offset=3 * MIB, times=None),
    IgnoreRange(times=None),
]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_whatever_a_mirror_does_the_origin_makes_it_good(
    mirror: HubServer, fetching: Fetching, fault: Fault
) -> None:
    mirror.fault(WEIGHTS, fault)
    manifest = fetching.fetch("model", URI)
    assert fetching.store.verify(manifest) == []
    failed = fetching.told(MirrorFailed)
    assert {event.mirror for event in failed} == {mirror.url}
    assert not fetching.retries, "no failure of the origin's was told"


def test_a_mirror_that_is_away_costs_one_try_for_all(
    hub: HubServer, mirror: HubServer, fetching: Fetching
) -> None:
    mirror.refuse_connections()
    hub.add_repo("org/other", {f"{n}.json": b"%d" % n for n in range(30)})
    fetching.fetch("model", URI)
    fetching.fetch("other", "hf://org/other")
    assert hub.bytes_sent() > SIZE
    failed = fetching.told(MirrorFailed)
    assert 1 <= len(failed) <= QUICK.connections
    assert all(event.pause > 1 for event in failed)


def test_a_file_that_the_mirror_lacks_doesn_t_stop_it_from_giving_others(
    hub: HubServer, mirror: HubServer, fetching: Fetching
) -> None:
    mirror.fault("config.json", Status(404, times=None))
    fetching.fetch("model", URI)
    assert mirrored(fetching) == CONTENT.size
    assert [event.pause for event in fetching.told(MirrorFailed)] == [0.0]
    assert hub.bytes_sent() == 2


def test_the_next_mirror_is_asked_when_the_first_fails(
    hub: HubServer, mirror: HubServer, make_fetching: MakeFetching
) -> None:
    hub.add_repo("org/model", FILES)
    with HubServer(hosts=("127.0.0.4", "127.0.0.4")) as empty:
        mirrors = (Mirror("hf", empty.url), Mirror("s3", "http://not.asked"))
        fetching = make_fetching(mirrors=(*mirrors, Mirror("hf", mirror.url)))
        fetching.fetch("model", URI)
        assert empty.requests
    assert hub.bytes_sent() == 0
    assert mirrored(fetching) == SIZE


def test_a_mirror_goes_on_while_the_origin_wants_to_be_left_alone(
    hub: HubServer, mirror: HubServer, fetching: Fetching
) -> None:
    hub.fault("*", Status(429, times=None, retry_after=60))
    manifest = fetching.fetch("model", URI)
    assert fetching.store.verify(manifest) == []


# Whom credentials go to


def secret(folder: Path, hosts: str) -> Path:
    (folder / "s" / "hf").mkdir(parents=True)
    (folder / "s" / "hf" / "token").write_text(TOKEN)
    (folder / "s" / "hf" / "hosts").write_text(hosts)
    return folder / "s"


@pytest.mark.parametrize(("names_it", "sent"), [(True, {f"Bearer {TOKEN}"}), (False, {None})])
def test_the_token_goes_to_a_mirror_that_the_secret_names_and_to_no_other(
    hub: HubServer,
    mirror: HubServer,
    make_fetching: MakeFetching,
    tmp_path: Path,
    names_it: bool,
    sent: set[str | None],
) -> None:
    hub.add_repo("org/model", FILES, private=True, token=TOKEN)
    hosts = "127.0.0.1,127.0.0.3" if names_it else "127.0.0.1"
    fetching = make_fetching(mirrors=(Mirror("hf", mirror.url),), secrets=secret(tmp_path, hosts))
    fetching.fetch("model", URI, secret_name="hf")
    asked = [request for request in mirror.requests if request.server == "hub"]
    assert {request.headers.get("authorization") for request in asked} == sent


def test_a_token_of_the_environment_goes_to_no_mirror(
    hub: HubServer, mirror: HubServer, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetching.fetch("model", URI)
    assert any("authorization" in request.headers for request in hub.requests)
    assert mirror.requests
    assert not any("authorization" in request.headers for request in mirror.requests)


def test_s3_is_mirrored_by_bucket_and_key_without_a_signature(
    hub: HubServer, make_fetching: MakeFetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Hub as the mirror: it says no, and tells what it was asked."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    with S3Server() as s3:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
        client = s3.client()
        client.create_bucket(Bucket="mirrored-bucket")
        client.put_object(
            Bucket="mirrored-bucket",
            Key="m/a b.safetensors",
            Body=b"w" * 99,
            ChecksumAlgorithm="CRC32",  # as newer SDKs do by themselves; no such one seals anything
        )
        fetching = make_fetching(mirrors=(Mirror("s3", f"{hub.url}/base"),))
        fetching.fetch("model", "s3://mirrored-bucket/m")
    assert [request.path for request in hub.requests] == [
        "/base/mirrored-bucket/m/a%20b.safetensors"
    ]
    assert "authorization" not in hub.requests[0].headers


WEB_FILES = {f"{n}/a b.safetensors": bytes([n]) * 999 for n in range(3)}
WEB_SIZE = sum(map(len, WEB_FILES.values()))


def test_gs_is_mirrored_by_bucket_object_and_generation(
    web: WebServer, make_fetching: MakeFetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    with GcsServer() as gcs:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
        bucket = gcs.bucket("mirrored-gs")
        generations = {name: gcs.put(bucket, f"m/{name}", d) for name, d in WEB_FILES.items()}
        web.put({f"mirror/{bucket}/m/{name}": data for name, data in WEB_FILES.items()})
        fetching = make_fetching(mirrors=(Mirror("gs", f"{web.plain}/mirror"),))
        manifest = fetching.fetch("model", f"gs://{bucket}/m")
        assert not gcs.asked_for("/download/")
    assert fetching.store.verify(manifest) == []
    assert mirrored(fetching) == WEB_SIZE
    assert {request.target for request in web.requests} == {
        f"/mirror/{bucket}/m/{name.replace(' ', '%20')}?generation={generation}"
        for name, generation in generations.items()
    }
    assert not any(request.authorization for request in web.requests)


def test_oci_is_mirrored_as_a_registry(
    web: WebServer, registry: Registry, make_fetching: MakeFetching, tmp_path: Path
) -> None:
    repository = f"mirrored/{sha256(str(tmp_path).encode()).hexdigest()[:20]}"
    layers = [(data, "text/plain", {TITLE: name}) for name, data in WEB_FILES.items()]
    registry.push_artifact(repository, *layers, tag="v1")
    blobs = {sha256(data).hexdigest(): data for data in WEB_FILES.values()}
    web.put({f"mirror/v2/{repository}/blobs/sha256:{d}": data for d, data in blobs.items()})
    fetching = make_fetching(mirrors=(Mirror("oci", f"{web.plain}/mirror"),))
    manifest = fetching.fetch("model", registry.uri(repository, ":v1"))
    assert fetching.store.verify(manifest) == []
    assert mirrored(fetching) == WEB_SIZE


@pytest.mark.parametrize("names_it", [True, False])
def test_web_servers_are_mirrored_by_path_and_with_the_secret_where_it_names_the_mirror(
    web: WebServer, make_fetching: MakeFetching, tmp_path: Path, names_it: bool
) -> None:
    folder = f"listed-{names_it}"
    web.put({f"{folder}/{name}": data for name, data in WEB_FILES.items()})
    web.sum_up(folder)
    web.put({f"mirror/{folder}/{name}": data for name, data in WEB_FILES.items()})
    origin, mirror = (url.partition("://")[2] for url in (web.url, web.plain))
    secrets = secret(tmp_path, f"{origin},{mirror}" if names_it else origin)
    fetching = make_fetching(mirrors=(Mirror("https", f"{web.plain}/mirror"),), secrets=secrets)
    fetching.fetch("model", f"{web.url}/{folder}/SHA256SUMS?planted", secret_name="hf")
    assert mirrored(fetching) == WEB_SIZE
    asked = [request for request in web.requests if request.target.startswith("/mirror/")]
    assert len(asked) == len(WEB_FILES)
    assert not any("planted" in request.target for request in asked)
    assert {bool(request.authorization) for request in asked} == {names_it}


# What has no digest


class Undigested:
    """An origin that knows no digest of what it has."""

    def __init__(self, location: HttpLocation) -> None:
        self._location = location

    def resolve(self) -> Revision:
        raise NotImplementedError

    def locate(self, file: RemoteFile) -> HttpLocation:
        return self._location


def alternatives(url: str, location: HttpLocation, **file: object) -> tuple[HttpLocation, ...]:
    origin: Origin = Undigested(location)
    remote = RemoteFile("f", "f", 1, "i")
    located = MirroredOrigin(origin, [Mirror("s3", url)], None).locate(replace(remote, **file))  # type: ignore[arg-type]
    assert isinstance(located, HttpLocation)
    return located.mirrors


PLAIN, SAFE = "http://mirror.test", "https://mirror.test"
TAGGED = HttpLocation("https://origin.test/b/f?signature=x", if_match='"tag"')


def test_without_a_strong_digest_no_plain_mirror_is_asked() -> None:
    assert alternatives(PLAIN, TAGGED) == ()
    assert alternatives(PLAIN, TAGGED, checksums={"crc32c": "00000000"}) == ()
    for strong in ("sha1", "git-sha1", "md5", "sha256"):
        (found,) = alternatives(PLAIN, TAGGED, checksums={strong: "00"})
        assert (found.url, found.if_match) == ("http://mirror.test/b/f", None)
    assert alternatives(PLAIN, TAGGED, sha256="0" * 64)
    assert alternatives(PLAIN, replace(TAGGED, checksums={"md5": "00"}))


def test_without_a_strong_digest_a_mirror_has_to_show_the_origins_entity_tag() -> None:
    (found,) = alternatives(SAFE, TAGGED)
    assert (found.url, found.if_match, found.mirror) == (f"{SAFE}/b/f", '"tag"', SAFE)
    assert alternatives(SAFE, replace(TAGGED, if_match=None)) == ()


def test_a_tls_mirror_of_a_private_ca(
    hub: HubServer, mirror: HubServer, make_fetching: MakeFetching, tmp_path: Path
) -> None:
    hub.add_repo("org/model", FILES)
    authority = Authority(tmp_path / "ca")
    behind = urlsplit(mirror.url).port
    assert behind is not None
    with TlsFront(authority.server("m", ["127.0.0.1"], []), behind, "127.0.0.3") as front:
        fetching = make_fetching(
            network=Network(ca_bundle=authority.certificate),
            mirrors=(Mirror("hf", f"https://127.0.0.1:{front.port}"),),
        )
        fetching.fetch("model", URI, include=["config.json"])
    assert mirrored(fetching) == 2


def test_secrets_don_t_go_to_a_mirror_in_the_clear(tmp_path: Path) -> None:
    found = SecretStore(secret(tmp_path, "mirror.test")).read("hf")
    location = replace(TAGGED, mirror_headers={"Authorization": "x"}, checksums={"md5": "00"})
    for url, headers in ((PLAIN, {}), (SAFE, {"Authorization": "x"})):
        origin = MirroredOrigin(Undigested(location), [Mirror("s3", url)], found)
        located = origin.locate(RemoteFile("f", "f", 1, "i"))
        assert isinstance(located, HttpLocation)
        assert [where.headers for where in located.mirrors] == [headers]
