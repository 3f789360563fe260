"""A clean environment, and the origins behind one face."""

from __future__ import annotations

import json
import os
import zlib
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import md5, sha1, sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pytest
from awscrt.checksums import crc32c, crc64nvme
from botocore.loaders import Loader
from huggingface_hub import constants
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from modelcache.api import Source
from modelcache.origins import (
    HttpLocation,
    Location,
    Origin,
    OriginSettings,
    SecretStore,
    open_origin,
)
from tests.support.gcs import GcsServer
from tests.support.hub import HubServer
from tests.support.hub.client import get
from tests.support.registry import PASSWORD, TITLE, USER, Registry
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.web import TOKEN, WebServer, web, web_server

__all__ = ["web", "web_server"]

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials and no endpoint but those that a test sets."""
    for name in os.environ:
        if name.startswith(("AWS_", "HF_", "HUGGING")):
            monkeypatch.delenv(name)
    nowhere = str(tmp_path / "nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", nowhere)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", nowhere)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # Read from the environment when huggingface_hub is imported.
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", nowhere)
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", nowhere)


@pytest.fixture
def asked_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 is asked for each object, as for one that is not small."""
    monkeypatch.setattr("modelcache.origins.s3.SMALL_BYTES", -1)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@cache
def _loader(_search_path: str | None) -> Loader:
    return Loader()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    s3_server.reset()
    # Each session reads AWS's descriptions of its services anew otherwise: 0.2 s.
    monkeypatch.setattr("botocore.session.create_loader", _loader)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    return s3_server


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GcsServer]:
    with GcsServer() as server:
        yield server


@pytest.fixture
def gcs(gcs_server: GcsServer, monkeypatch: pytest.MonkeyPatch) -> GcsServer:
    """Google Cloud Storage as an emulator: public, and never sent credentials."""
    gcs_server.reset()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server.url)
    return gcs_server


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    with Registry() as server:
        yield server


class Site(ABC):
    """A place with a model that an origin leads to.

    Attributes:
        server: the plain URL of the server that gives out the bytes.
        data: what the paths of requests for the weights have in them, and no others.
    """

    server: str
    data: str

    def __init__(self, settings: OriginSettings) -> None:
        self._settings = settings

    def reach_at(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on the server is reached at another URL."""
        raise NotImplementedError

    @abstractmethod
    def put(self, files: Mapping[str, bytes]) -> None:
        """Add files, or replace them."""

    @abstractmethod
    def uri(self, path: str = "") -> str:
        """The URI of the model, or of a folder or file of it."""

    def origin(self, path: str = "") -> Origin:
        return open_origin(Source(uri=self.uri(path)), self._settings)


class HubSite(Site):
    def __init__(self, settings: OriginSettings, hub: HubServer, token: str | None = None) -> None:
        super().__init__(settings)
        self._hub = hub
        self.server, self.data = hub.cdn_url, "/repos/"
        self.lists = hub.url
        hub.add_repo("org/name", {}, gated=token is not None, token=token)

    def reach_at(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._hub._backend.cdn_url = url

    def put(self, files: Mapping[str, bytes]) -> None:
        self._hub.commit("org/name", files)

    def uri(self, path: str = "") -> str:
        return f"hf://org/name/{path}".rstrip("/")


class BucketSite(Site):
    def __init__(self, settings: OriginSettings, s3: S3Server, bucket: str) -> None:
        super().__init__(settings)
        self._client, self._bucket = s3.client(), bucket
        self._client.create_bucket(Bucket=bucket)
        self.server, self.data = s3.endpoint, ".safetensors"

    def reach_at(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)

    def put(self, files: Mapping[str, bytes]) -> None:
        if len(files) > 100:
            # moto runs in this process: a thousand requests would take it ten seconds.
            backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
            for path, data in files.items():
                backend.put_object(self._bucket, f"models/{path}", data)
            return
        for path, data in files.items():
            self._client.put_object(Bucket=self._bucket, Key=f"models/{path}", Body=data)

    def uri(self, path: str = "") -> str:
        return f"s3://{self._bucket}/models/{path}".rstrip("/")


class GoogleSite(Site):
    def __init__(self, settings: OriginSettings, gcs: GcsServer, bucket: str) -> None:
        super().__init__(settings)
        self._gcs, self._bucket = gcs, gcs.bucket(bucket)
        self.server, self.data = gcs.url, "/download/"

    def reach_at(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)

    def put(self, files: Mapping[str, bytes]) -> None:
        if len(files) > 100:
            self._gcs.put_many(self._bucket, {f"models/{p}": data for p, data in files.items()})
            return
        for path, data in files.items():
            self._gcs.put(self._bucket, f"models/{path}", data)

    def uri(self, path: str = "") -> str:
        return f"gs://{self._bucket}/models/{path}".rstrip("/")


class ListSite(Site):
    """A web server with a checksum list in each folder."""

    def __init__(self, settings: OriginSettings, web: WebServer, folder: str) -> None:
        super().__init__(settings)
        self._web, self._folder = web, folder
        self._url = web.url
        self.server, self.data = web.plain, ".safetensors"

    def reach_at(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._url = url

    def put(self, files: Mapping[str, bytes]) -> None:
        self._web.put({f"{self._folder}/{path}": data for path, data in files.items()})
        folders = {""} | {path.partition("/")[0] for path in files if "/" in path}
        for folder in sorted(folders, reverse=True) if len(files) < 100 else [""]:
            self._web.sum_up(f"{self._folder}/{folder}")

    def uri(self, path: str = "") -> str:
        url = f"{self._url}/{quote(f'{self._folder}/{path}'.rstrip('/'))}"
        is_file = (self._web.files / self._folder / path).is_file()
        return url if is_file else f"{url}/SHA256SUMS"


class DirectorySite(Site):
    def __init__(self, settings: OriginSettings, directory: Path) -> None:
        super().__init__(settings)
        self._directory = directory
        directory.mkdir()

    def put(self, files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            target = self._directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)

    def uri(self, path: str = "") -> str:
        return f"file://{self._directory}/{path}".rstrip("/")


class RegistrySite(Site):
    """An artifact, as ORAS pushes it. There is no path inside of one."""

    def __init__(self, settings: OriginSettings, registry: Registry, repository: str) -> None:
        super().__init__(settings)
        self._registry, self._repository = registry, repository
        self._files: dict[str, bytes] = {}
        self.server, self.data = f"http://{registry.host}", "/blobs/"
        self._host = registry.host

    def reach_at(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._host = urlsplit(url).netloc

    def put(self, files: Mapping[str, bytes]) -> None:
        self._files |= files
        layers = [(data, "text/plain", {TITLE: path}) for path, data in self._files.items()]
        self._registry.push_artifact(self._repository, *layers, tag="v1")

    def uri(self, path: str = "") -> str:
        assert not path
        return f"oci://{self._host}/{self._repository}:v1"


@pytest.fixture
def settings(tmp_path: Path) -> OriginSettings:
    (tmp_path / "mounts").mkdir()
    return OriginSettings(
        root=tmp_path / "cache",
        file_roots=(tmp_path / "mounts",),
        secrets=SecretStore(tmp_path / "secrets"),
    )


def open_site(
    kind: str, request: pytest.FixtureRequest, settings: OriginSettings, tmp_path: Path
) -> Site:
    name = f"site-{sha256(str(tmp_path).encode()).hexdigest()[:20]}"
    if kind == "hf":
        return HubSite(settings, request.getfixturevalue("hub"))
    if kind == "s3":
        return BucketSite(settings, request.getfixturevalue("s3"), name)
    if kind == "gs":
        return GoogleSite(settings, request.getfixturevalue("gcs"), name)
    if kind == "oci":
        return RegistrySite(settings, request.getfixturevalue("registry"), name)
    if kind == "https":
        return ListSite(settings, request.getfixturevalue("web"), name)
    return DirectorySite(settings, tmp_path / "mounts" / "site")


@pytest.fixture(params=["hf", "s3", "gs", "oci", "https", "file"])
def site(request: pytest.FixtureRequest, settings: OriginSettings, tmp_path: Path) -> Site:
    return open_site(request.param, request, settings, tmp_path)


@dataclass(frozen=True)
class Guarded:
    """A site that wants credentials.

    Attributes:
        keys, wrong: of a Secret with the right ones, and of one with wrong ones.
        planted: what must not be printed.
    """

    site: Site
    keys: dict[str, str]
    wrong: dict[str, str]
    planted: tuple[str, ...]


@pytest.fixture(scope="session")
def guarded_registry() -> Iterator[Registry]:
    with Registry(basic=True) as server:
        yield server


@pytest.fixture(params=["hf", "s3", "gs", "oci", "https"])
def guarded(
    request: pytest.FixtureRequest,
    settings: OriginSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Guarded:
    """moto, behind s3, believes everybody."""
    name = f"guarded-{sha256(str(tmp_path).encode()).hexdigest()[:20]}"
    if request.param == "hf":
        hub_site = HubSite(settings, request.getfixturevalue("hub"), token="hf_planted")
        return Guarded(hub_site, {"token": "hf_planted"}, {"token": "hf_other"}, ("hf_planted",))
    if request.param == "s3":
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        bucket = BucketSite(settings, request.getfixturevalue("s3"), name)
        return Guarded(bucket, keys, {}, (SECRET_KEY,))
    if request.param == "gs":
        gcs: GcsServer = request.getfixturevalue("gcs")
        monkeypatch.delenv("STORAGE_EMULATOR_HOST")
        monkeypatch.setenv("API_ENDPOINT_OVERRIDE", gcs.url)
        gcs.private = True
        right, wrong = gcs.key(), {**gcs.key(), "token_uri": f"{gcs.url}/refused/token"}
        planted = ("ya29.planted", "planted_key_id", right["private_key"][40:80])
        key = "GOOGLE_APPLICATION_CREDENTIALS_JSON"
        return Guarded(
            GoogleSite(settings, gcs, name),
            {key: json.dumps(right)},
            {key: json.dumps(wrong)},
            planted,
        )
    if request.param == "oci":
        registry: Registry = request.getfixturevalue("guarded_registry")
        login = {"username": USER, "password": PASSWORD}
        encoded = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        site = RegistrySite(settings, registry, name)
        return Guarded(site, login, {**login, "password": "other"}, (PASSWORD, encoded))
    web: WebServer = request.getfixturevalue("web")
    listed = ListSite(settings, web, f"token/{name}")
    return Guarded(listed, {"token": TOKEN}, {"token": "other"}, (TOKEN,))


@pytest.fixture(params=["hf", "s3", "gs", "https", "file"])
def site_with_paths(
    request: pytest.FixtureRequest, settings: OriginSettings, tmp_path: Path
) -> Site:
    """One whose URI may name a folder or a file of it."""
    return open_site(request.param, request, settings, tmp_path)


def fetched(location: Location) -> bytes:
    """The bytes at a location, as the plainest engine gets them."""
    if isinstance(location, HttpLocation):
        headers = dict(location.headers)
        if location.if_match:
            headers["If-Match"] = location.if_match
        answer = get(location.url, **headers)
        assert answer.status == 200, answer
        return answer.body
    fd = location.open()
    with open(fd, "rb") as file:
        return file.read()


def checksum(algorithm: str, data: bytes) -> str:
    """A checksum in hex, by an implementation that is not the agent's."""
    match algorithm:
        case "git-sha1":
            return sha1(b"blob %d\0" % len(data) + data).hexdigest()
        case "md5":
            return md5(data).hexdigest()
        case "sha1":
            return sha1(data).hexdigest()
        case "sha256":
            return sha256(data).hexdigest()
        case "crc32":
            return f"{zlib.crc32(data):08x}"
        case "crc32c":
            return f"{crc32c(data):08x}"
        case "crc64nvme":
            return f"{crc64nvme(data):016x}"
    raise AssertionError(algorithm)


@pytest.fixture
def bucket(s3: S3Server, request: pytest.FixtureRequest) -> str:
    name = f"s3-{abs(hash(request.node.nodeid)):x}"
    s3.client().create_bucket(Bucket=name)
    return name


@pytest.fixture
def client(s3: S3Server) -> S3Client:
    return s3.client()
