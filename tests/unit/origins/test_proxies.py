"""Which proxy leads where, by the rules of Go's httpproxy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kubernetes.config import incluster_config

from modelcache.cluster.client import NODES, Client
from modelcache.errors import AuthFailed, ClusterError, OriginUnavailable, UsageError
from modelcache.origins.proxies import NEVER_PROXIED, Proxies, spare_metadata
from tests.support.cluster.certificates import Authority
from tests.support.proxy import ProxyServer

P = "http://proxy.corp:3128"


def leads(url: str, **environment: str) -> str | None:
    found = Proxies.from_environment({"HTTPS_PROXY": P, **environment}).of(url)
    return str(found) if found else None


def test_each_scheme_has_its_own() -> None:
    found = Proxies.from_environment({"HTTPS_PROXY": "http://s:1", "http_proxy": "h:2"})
    assert str(found.of("https://x.example")) == "s:1"
    assert str(found.of("http://x.example/")) == "h:2"
    assert Proxies.from_environment({"HTTP_PROXY": P}).of("https://x.example") is None
    assert not Proxies.from_environment({"HTTPS_PROXY": ""})


def test_small_letters_count_before_capitals_also_when_empty() -> None:
    both = {"HTTPS_PROXY": "http://big:1", "https_proxy": "http://small:1"}
    assert str(Proxies.from_environment(both).of("https://x.example")) == "small:1"
    assert leads("https://x.example", https_proxy="") is None
    assert leads("https://x.example", no_proxy="", NO_PROXY="x.example") is not None


@pytest.mark.parametrize(
    ("no_proxy", "url", "proxied"),
    [
        ("example.com", "https://example.com/", False),
        ("example.com", "https://a.b.example.com/", False),
        ("example.com", "https://notexample.com/", True),
        ("EXAMPLE.com", "https://Example.COM./", False),
        (".example.com", "https://example.com/", True),
        (".example.com", "https://a.example.com/", False),
        ("*.example.com", "https://example.com/", True),
        ("*.example.com", "https://a.example.com/", False),
        ("a.example, b.example", "https://b.example", False),
        ("a.example b.example", "https://b.example", False),
        ("example.com:8443", "https://example.com/", True),
        ("example.com:8443", "https://example.com:8443/", False),
        ("example.com:443", "https://example.com/", False),
        ("10.0.0.0/8", "https://10.1.2.3/", False),
        ("10.0.0.0/8", "https://11.1.2.3/", True),
        ("10.0.0.0/8", "https://ten.example/", True),
        ("10.1.2.3", "https://10.1.2.3:9000/", False),
        ("10.1.2.3:9000", "https://10.1.2.3/", True),
        ("fd00::/8", "https://[fd12::1]/", False),
        ("[fd12::1]:443", "https://[fd12::1]/", False),
        ("fd12::1", "https://[fd12::1]:9/", False),
        ("*", "https://anything.example", False),
        ("x, *", "https://anything.example", False),
        ("10.0.0.0/99, :, nonsense:port", "https://anything.example", True),
    ],
)
def test_no_proxy(no_proxy: str, url: str, proxied: bool) -> None:
    assert (leads(url, NO_PROXY=no_proxy) is not None) is proxied


@pytest.mark.parametrize(
    "host",
    ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "[::1]", "169.254.169.254",
     "169.254.170.23", "[fe80::1]", "[fd00:ec2::254]", "[::ffff:127.0.0.1]",
     "metadata.google.internal"],
)  # fmt: skip
def test_this_machine_and_its_metadata_are_never_proxied(host: str) -> None:
    assert leads(f"https://{host}/") is None


def test_the_sdks_are_told_what_is_never_proxied() -> None:
    given = {"HTTPS_PROXY": P, "NO_PROXY": "10.0.0.0/8 corp"}
    spare_metadata(given)
    assert given["no_proxy"] == given["NO_PROXY"]
    assert given["no_proxy"].split(",") == ["10.0.0.0/8", "corp", *NEVER_PROXIED]
    spare_metadata(given)
    assert given["no_proxy"].split(",") == ["10.0.0.0/8", "corp", *NEVER_PROXIED]
    untouched: dict[str, str] = {"NO_PROXY": "corp"}
    spare_metadata(untouched)
    assert untouched == {"NO_PROXY": "corp"}


def test_the_api_server_is_not_asked_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Kubernetes' own client reads the variables; a pod's NO_PROXY rarely names the service."""
    (tmp_path / "token").write_text("x")
    certificate = Authority(tmp_path / "ca").certificate
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(certificate))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.2")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    with ProxyServer({}) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "corp")
        monkeypatch.setenv("no_proxy", "corp")
        spare_metadata()
        assert os.environ["NO_PROXY"].split(",")[-1] == "127.0.0.2"
        client = Client.connect()
        with pytest.raises(ClusterError):
            client.get(NODES, "a")
        client.close()
        assert proxy.requests == []


def test_user_and_password_are_decoded_and_not_shown() -> None:
    proxy = Proxies.from_environment({"HTTPS_PROXY": "http://me:p%40ss@proxy:3128/"}).of(
        "https://x"
    )
    assert proxy is not None
    assert proxy.authorization == "Basic bWU6cEBzcw=="
    assert "p%40ss" not in repr(proxy) + str(proxy)
    assert "bWU6" not in repr(proxy)


@pytest.mark.parametrize(
    "value",
    ["socks5://me:secret@proxy:1", "https://me:secret@proxy:1", "http://", "http://me:secret@p:x",
     "http://proxy:1/path", "http://[::1"],
)  # fmt: skip
def test_a_proxy_that_can_t_be_is_told_without_its_password(value: str) -> None:
    with pytest.raises(UsageError, match="HTTPS_PROXY is not the URL of an HTTP proxy") as raised:
        Proxies.from_environment({"HTTPS_PROXY": value})
    assert "secret" not in str(raised.value)


def test_what_its_refusals_mean() -> None:
    proxy = Proxies.from_environment({"HTTPS_PROXY": P}).of("https://x")
    assert proxy is not None
    assert isinstance(proxy.refusal(407, "x:443"), AuthFailed)
    assert isinstance(proxy.refusal(403, "x:443"), AuthFailed)
    assert isinstance(proxy.refusal(502, "x:443"), OriginUnavailable)
