"""The bundle of a private CA: read once, told at once when it can't be used."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from modelcache.errors import UsageError
from modelcache.origins import Network
from tests.support.cluster.certificates import Authority


def test_the_private_ca_comes_on_top_of_the_others(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    ours = Authority(tmp_path / "ca").certificate.read_bytes()
    bundle.write_bytes("# Größe\r\n".encode("latin-1") + ours)
    network = Network(ca_bundle=bundle)
    usual = len(Network().tls.get_ca_certs())
    assert usual > 50
    assert len(network.tls.get_ca_certs()) == usual + 1
    context = ssl.create_default_context(cafile=network.ca_file)
    assert len(context.get_ca_certs()) >= usual + 1


@pytest.mark.parametrize(
    "name", ["SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
)
def test_the_sdks_and_the_engine_trust_whom_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    authority = Authority(tmp_path / "ca")
    monkeypatch.setenv(name, str(authority.certificate))
    ours = ssl.PEM_cert_to_DER_cert(authority.certificate.read_text())
    network = Network()
    assert ours in network.tls.get_ca_certs(binary_form=True)
    context = ssl.create_default_context(cafile=network.ca_file)
    assert ours in context.get_ca_certs(binary_form=True)


def test_a_bundle_may_be_a_directory_with_links_by_hash(tmp_path: Path) -> None:
    linked, other = (Authority(tmp_path / name).certificate for name in ("ca", "other"))
    folder = tmp_path / "certs"
    folder.mkdir()
    (folder / "0a1b2c3d.0").symlink_to(linked)
    (folder / "other.pem").write_bytes(other.read_bytes())  # OpenSSL would not find it either
    found = Network(environment={"REQUESTS_CA_BUNDLE": str(folder)}).tls
    known = found.get_ca_certs(binary_form=True)
    assert ssl.PEM_cert_to_DER_cert(linked.read_text()) in known
    assert ssl.PEM_cert_to_DER_cert(other.read_text()) not in known


def test_a_bundle_of_the_environment_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"AWS_CA_BUNDLE: .*gone\.pem can't be read"):
        Network(environment={"AWS_CA_BUNDLE": str(tmp_path / "gone.pem")})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "can't be read (No such file or directory)"),
        (b"", "holds no certificates"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "holds no certificates"),
        (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
            "a certificate that can't be read",
        ),
        (
            b"-----BEGIN CERTIFICATE-----\n\xff\n-----END CERTIFICATE-----",
            "a certificate that can't be read",
        ),
    ],
)
def test_a_bundle_that_can_t_be_used(tmp_path: Path, content: bytes | None, why: str) -> None:
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_bytes(content)
    with pytest.raises(UsageError) as raised:
        Network(ca_bundle=bundle)
    assert why in str(raised.value)
    assert "--ca-bundle" in str(raised.value)
    assert str(bundle) in str(raised.value)
