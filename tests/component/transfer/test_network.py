"""Through a proxy, and to servers of a private CA: the engine and the SDKs alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from modelcache.errors import AuthFailed, OriginUnavailable
from modelcache.origins import Network
from tests.component.transfer.conftest import MakeFetching
from tests.support.cluster.certificates import Authority
from tests.support.gcs import GcsServer
from tests.support.hub import GeneratedContent, HubServer
from tests.support.proxy import ProxyServer
from tests.support.registry import TITLE, Registry
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.tls import TlsFront
from tests.support.web import WebServer

MIB = 1024 * 1024
URI = "hf://org/model"
CONTENT = GeneratedContent(9 * MIB + 5, seed=3)


def port(url: str) -> int:
    found = urlsplit(url).port
    assert found is not None
    return found


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def named_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub that calls itself hub.test and its CDN cdn.test: names that no resolver knows."""
    with HubServer(hosts=("127.0.0.1", "127.0.0.1")) as server:
        server._backend.hub_url = "http://hub.test"
        server._backend.cdn_url = "http://cdn.test"
        server.add_repo("org/model", {"model.safetensors": CONTENT, "config.json": b"{}"})
        monkeypatch.setenv("HF_ENDPOINT", "http://hub.test")
        yield server


@pytest.fixture
def names(named_hub: HubServer) -> dict[str, int]:
    return {"hub.test": port(named_hub.url), "cdn.test": port(named_hub.cdn_url)}


@pytest.fixture
def tls_names(
    named_hub: HubServer,
    names: dict[str, int],
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[dict[str, int]]:
    """The same behind TLS."""
    named_hub._backend.hub_url = "https://hub.test"
    named_hub._backend.cdn_url = "https://cdn.test"
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.test")
    pair = authority.server("hub", [], ["hub.test", "cdn.test"])
    with TlsFront(pair, names["hub.test"]) as hub, TlsFront(pair, names["cdn.test"]) as cdn:
        yield {"hub.test": hub.port, "cdn.test": cdn.port}


def test_https_through_a_tunnel_with_a_password_and_a_private_ca(
    tls_names: dict[str, int],
    authority: Authority,
    make_fetching: MakeFetching,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ProxyServer(tls_names, login="me:p@ss") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:p%40ss@{proxy.address}")
        monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,.corp")
        fetching = make_fetching(network=Network(ca_bundle=authority.certificate))
        manifest = fetching.fetch("model", URI)
        assert fetching.store.verify(manifest) == []
        assert set(proxy.requests) == {"CONNECT hub.test:443", "CONNECT cdn.test:443"}
        assert None not in proxy.logins


def test_http_through_a_proxy_by_absolute_urls(
    names: dict[str, int],
    named_hub: HubServer,
    make_fetching: MakeFetching,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ProxyServer(names, login="me:pw") as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:pw@{proxy.address}")
        fetching = make_fetching()
        manifest = fetching.fetch("model", URI)
        assert fetching.store.verify(manifest) == []
        assert any(request.startswith("GET http://cdn.test/repos/") for request in proxy.requests)
        assert any(request.startswith("GET http://hub.test/api/") for request in proxy.requests)
    assert all("proxy-authorization" not in request.headers for request in named_hub.requests)


@pytest.mark.parametrize(
    ("login", "refuses", "error", "why"),
    [
        ("me:pw", None, AuthFailed, "wants a user name and password (HTTP 407)"),
        (None, 403, AuthFailed, "lets nobody through to"),
        (None, 502, OriginUnavailable, "can't reach"),
    ],
)
@pytest.mark.parametrize("refused", ["hub.test", "cdn.test"])
def test_a_proxy_that_refuses(
    tls_names: dict[str, int],
    authority: Authority,
    make_fetching: MakeFetching,
    monkeypatch: pytest.MonkeyPatch,
    refused: str,
    login: str | None,
    refuses: int | None,
    error: type[Exception],
    why: str,
) -> None:
    """By the SDK's client (the Hub) and by the engine's (the CDN)."""
    with ProxyServer(tls_names) as good, ProxyServer({}, login=login, refuses=refuses) as bad:
        monkeypatch.setenv("HTTPS_PROXY", bad.url if refused == "hub.test" else good.url)
        network = Network(ca_bundle=authority.certificate)
        if refused == "cdn.test":
            proxies = Network(environment={"HTTPS_PROXY": bad.url})._proxies
            chosen = network._proxies
            monkeypatch.setattr(
                network, "proxy", lambda url: (proxies if "cdn.test" in url else chosen).of(url)
            )
        fetching = make_fetching(network=network)
        with pytest.raises(error) as raised:
            fetching.fetch("model", URI)
        assert why in str(raised.value)
        assert bad.address in str(raised.value)


def test_a_proxy_that_is_not_there(
    tls_names: dict[str, int], make_fetching: MakeFetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProxyServer(tls_names) as gone:
        pass
    monkeypatch.setenv("HTTPS_PROXY", gone.url)
    with pytest.raises(OriginUnavailable, match="can't be reached"):
        make_fetching().fetch("model", URI)


def test_without_the_bundle_nobody_is_trusted(
    tls_names: dict[str, int], make_fetching: MakeFetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProxyServer(tls_names) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(OriginUnavailable, match=r"(?i)certificate"):
            make_fetching().fetch("model", URI)


# The other origins


WEIGHTS = b"weights" * 999


@pytest.fixture(params=["gs", "oci", "https"])
def named(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, int]]:
    """A URI whose host is store.test, and the port of the server, without TLS."""
    name = f"n-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20]}"
    if request.param == "gs":
        with GcsServer() as gcs:
            gcs.put(gcs.bucket(name), "m/w.safetensors", WEIGHTS)
            monkeypatch.setenv("API_ENDPOINT_OVERRIDE", "https://store.test")
            yield f"gs://{name}/m", port(gcs.url)
    elif request.param == "oci":
        registry: Registry = request.getfixturevalue("registry")
        registry.push_artifact(name, (WEIGHTS, "text/plain", {TITLE: "w.safetensors"}))
        yield f"oci://store.test/{name}", port(f"http://{registry.host}")
    else:
        web: WebServer = request.getfixturevalue("web")
        web.put({f"{name}/w.safetensors": WEIGHTS})
        yield f"https://store.test/{name}/w.safetensors", port(web.plain)


def test_other_origins_through_a_tunnel(
    named: tuple[str, int],
    authority: Authority,
    make_fetching: MakeFetching,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri, behind = named
    with (
        TlsFront(authority.server("s", [], ["store.test"]), behind) as front,
        ProxyServer({"store.test": front.port}, login="me:pw") as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:pw@{proxy.address}")
        fetching = make_fetching(network=Network(ca_bundle=authority.certificate))
        manifest = fetching.fetch("model", uri)
        assert manifest.files[0].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
        assert set(proxy.requests) == {"CONNECT store.test:443"}


def test_a_proxy_s_refusal_without_a_tunnel_is_told_as_the_proxy_s(
    make_fetching: MakeFetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProxyServer({}, login="me:pw") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with pytest.raises(AuthFailed, match=f"the proxy {proxy.address} wants a user name"):
            make_fetching().fetch("model", f"http://store.test/f#sha256={'0' * 64}")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    with S3Server() as server:
        yield server


def test_s3_through_a_tunnel_and_a_private_ca(
    s3: S3Server,
    authority: Authority,
    make_fetching: MakeFetching,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    bucket = f"b-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20]}"
    client = s3.client()
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="m/w.safetensors", Body=b"weights" * 1000)
    pair = authority.server("s3", [], ["storage"])
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://storage")
    with (
        TlsFront(pair, port(s3.endpoint)) as front,
        ProxyServer({"storage": front.port}, login="me:pw") as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        network = Network(ca_bundle=authority.certificate)
        with pytest.raises(AuthFailed, match="HTTP 407"):
            make_fetching(network=network).fetch("model", f"s3://{bucket}/m")
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:pw@{proxy.address}")
        network = Network(ca_bundle=authority.certificate)
        fetching = make_fetching(network=network)
        manifest = fetching.fetch("model", f"s3://{bucket}/m")
        assert fetching.store.verify(manifest) == []
        assert set(proxy.requests) == {"CONNECT storage:443"}
        assert proxy.logins.count(None) < len(proxy.logins)


def test_s3_within_a_network_of_no_proxy_goes_straight(
    s3: S3Server, make_fetching: MakeFetching, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """boto3 by itself would ask the proxy: it knows no networks."""
    bucket = f"c-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20]}"
    s3.client().create_bucket(Bucket=bucket)
    s3.client().put_object(Bucket=bucket, Key="m/w.safetensors", Body=b"weights")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    with ProxyServer({}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        fetching = make_fetching()
        fetching.fetch("model", f"s3://{bucket}/m")
        assert proxy.requests == []
