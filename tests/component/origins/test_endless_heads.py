"""Heads of answers without end, as every client of ours meets them."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from modelcache.api import parse_uri
from modelcache.errors import OriginUnavailable
from modelcache.origins import bodies, heads, s3client
from modelcache.origins.asking import Asker
from modelcache.origins.gcs import GcsOrigin
from modelcache.origins.hf import HuggingFaceOrigin
from modelcache.origins.network import Network
from modelcache.origins.oci import OciOrigin
from modelcache.origins.s3 import S3Origin
from tests.support.s3 import ACCESS_KEY, SECRET_KEY
from tests.unit.transfer.test_heads import ENDLESS, endlessly, saying, slowly

Ask = Callable[[str], object]


def by_asker(url: str) -> object:
    with Asker(Network(environment={}), keep_alive=False) as asker:
        return asker.ask("GET", url, {}, limit=1000)


def by_hub(url: str) -> object:
    return HuggingFaceOrigin(parse_uri("hf://org/name"), endpoint=url.removesuffix("/f")).resolve()


def by_registry(url: str) -> object:
    return OciOrigin(parse_uri(f"oci://{urlsplit(url).netloc}/a/b")).resolve()


def by_s3(url: str) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", url.removesuffix("/f"))
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setattr(s3client, "ATTEMPTS", 1)
        return S3Origin(parse_uri("s3://bucket/m")).resolve()


def by_gcs(url: str) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", url.removesuffix("/f"))
        patch.setattr("modelcache.origins.gcsclient.RETRY_SECONDS", 0.0)
        return GcsOrigin(parse_uri("gs://bucket/m")).resolve()


CLIENTS: dict[str, Ask] = {
    "asker": by_asker,
    "hub": by_hub,
    "registry": by_registry,
    "s3": by_s3,
    "gcs": by_gcs,
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("what", ["provisional answers", "a header"])
@pytest.mark.timeout(20)
def test_a_head_without_end_is_given_up(client: str, what: str) -> None:
    with saying(ENDLESS[what]) as url, pytest.raises(OriginUnavailable):
        CLIENTS[client](url)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.timeout(20)
def test_a_head_that_trickles_is_given_up(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "MOST_SECONDS", 0.3)
    with saying(slowly) as url, pytest.raises(OriginUnavailable):
        CLIENTS[client](url)


@pytest.mark.parametrize(
    ("client", "told"), [("s3", "was closed before"), ("gcs", "more than 1048576 bytes")]
)
@pytest.mark.timeout(20)
def test_a_body_without_end_is_not_taken_into_memory(
    client: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MOST_BYTES", 1 << 20)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    with (
        saying(endlessly(b" " * 65536, head)) as url,
        pytest.raises(OriginUnavailable, match=re.escape(told)),
    ):
        CLIENTS[client](url)
