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
    assert network.ca_file is not None
    context = ssl.create_default_context(cafile=network.ca_file)
    assert len(context.get_ca_certs()) >= usual + 1


def test_without_one_the_sdks_are_left_alone() -> None:
    assert Network().ca_file is None


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
