"""Each setting of a fetch arrives where it belongs."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from modelcache.errors import AuthFailed, UsageError
from modelcache.origins import Mirror, Network
from modelcache.service import outfit as module
from modelcache.service.outfit import outfit
from modelcache.settings import FetchSettings
from modelcache.transfer import Engine, TransferSettings
from tests.support.cluster.certificates import Authority


class Noting(Engine):
    """An engine that notes what it was made with."""

    def __init__(self, settings: TransferSettings, network: Network) -> None:
        self.made_with = (settings, network)
        super().__init__(settings, network)


def test_each_setting_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Engine", Noting)
    authority = Authority(tmp_path / "ca").certificate
    secret = tmp_path / "secrets" / "s"
    secret.mkdir(parents=True)
    (secret / "hosts").write_text("example.com")
    found = FetchSettings(
        root=tmp_path / "not-this",
        secrets_dir=tmp_path / "secrets",
        connections=3,
        bandwidth=1000,
        origin_bandwidth=(("hf", 200), ("s3", 300)),
        host_connections=2,
        io_priority="idle",
        mirrors=(("hf", "http://a:1/"), ("oci", "https://b/base")),
        ca_bundle=authority,
    )
    engine, origins = outfit(found, tmp_path / "root", (tmp_path / "files",))
    assert isinstance(engine, Noting)
    settings, network = engine.made_with
    assert settings == TransferSettings(
        connections=3,
        bandwidth=1000,
        origin_bandwidth={"hf": 200, "s3": 300},
        host_connections=2,
        io_priority="idle",
    )
    assert origins.network is network
    ours = ssl.PEM_cert_to_DER_cert(authority.read_text())
    assert ours in network.tls.get_ca_certs(binary_form=True)
    assert (origins.root, origins.file_roots) == (tmp_path / "root", (tmp_path / "files",))
    assert origins.secrets.read("s").permits("https://example.com/")
    assert origins.mirrors == (Mirror("hf", "http://a:1"), Mirror("oci", "https://b/base"))


def test_without_settings_nothing_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Engine", Noting)
    engine, origins = outfit(FetchSettings(), tmp_path, None)
    assert isinstance(engine, Noting)
    assert engine.made_with[0] == TransferSettings()
    assert (origins.file_roots, origins.mirrors) == (None, ())
    with pytest.raises(AuthFailed):
        origins.secrets.read("s")


@pytest.mark.parametrize(
    ("variable", "settings"),
    [("HTTPS_PROXY", {}), ("", {"ca_bundle": Path("/gone")})],
    ids=["a proxy", "a bundle"],
)
def test_what_cant_be_used_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, settings: dict[str, Any]
) -> None:
    if variable:
        monkeypatch.setenv(variable, "socks5://a")
    with pytest.raises(UsageError):
        outfit(FetchSettings(**settings), tmp_path, None)
