"""Whatever stands in the head of an answer: bytes from where they were asked for, or our errors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from modelcache.errors import ModelCacheError, OriginUnavailable
from modelcache.origins import HttpLocation, Network
from modelcache.transfer import Cancel
from modelcache.transfer.http import HttpClient
from tests.support.fetching import Fetching
from tests.support.s3 import Answer, S3Stub

DATA = b"weights" * 100
NETWORK = Network(environment={})
NAMES = (
    *("Content-Range", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding"),
    *("ETag", "Last-Modified", "Location", "Retry-After", "RateLimit", "Link", "Digest"),
    *("Content-Disposition", "Connection", "Keep-Alive", "Set-Cookie", "WWW-Authenticate"),
    *("X-Linked-Size", "X-Linked-Etag", "Accept-Ranges", "Refresh", "Trailer"),
)
VALUES = st.one_of(
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=20),
    st.sampled_from(
        ["", "0", "-1", "+5", "9" * 5000, "0x10", "1e3", "bytes */700", "bytes 0-699/700"]
    ),
    st.sampled_from(["bytes 5-699/700", "bytes 0-5/3", "bytes 0-699/*", f"bytes 0-{'9' * 4301}/9"]),
    st.sampled_from(
        ["chunked", "gzip", "identity, chunked", '"', 'W/"x"', "close", "//", "http://["]
    ),
    st.sampled_from(
        ["Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 01 Jan 99999 00:00:00 -9999", "/a b", "#"]
    ),
    st.sampled_from(
        ['attachment; filename="../../../canary"', "x; filename*=UTF-8''%2e%2e%2fcanary"]
    ),
    st.sampled_from(['</f>; rel="next"', '<//x>; rel="next"', "</f>; rel=preload"]),
)
HEADS = st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1, max_size=3)
STATUSES = st.sampled_from([200, 206, 206, 204, 301, 304, 307, 308, 401, 416, 429, 503, 599])


class Server(S3Stub):
    """A server whose one answer changes."""

    def __init__(self) -> None:
        super().__init__()
        self.says = Answer(404)

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        return self.says


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STATUSES, HEADS, st.sampled_from([0, 5]))
@example(206, {"Content-Range": f"bytes 0-{'9' * 4301}/9"}, 0)
@example(307, {"Location": "http://["}, 0)
def test_a_head_of_any_kind(server: Server, status: int, head: dict[str, str], start: int) -> None:
    server.says = Answer(status, headers=head, body=DATA[start:])
    client = HttpClient(NETWORK, read_timeout=0.05)
    location = HttpLocation(f"{server.endpoint}/f")
    got = bytearray()
    try:
        with client.get(location, start, len(DATA), len(DATA), Cancel()) as body:
            at = body.start
            buffer = bytearray(4096)
            while count := body.readinto(memoryview(buffer)):
                got += buffer[:count]
    except ModelCacheError:
        return
    finally:
        client.close()
    # As many as come may be fewer or more; where they belong is what the head says.
    assert at in (0, start)
    assert status in (200, 206)


@pytest.mark.parametrize(
    "disposition",
    [
        'attachment; filename="../../../canary"',
        "attachment; filename*=UTF-8''%2e%2e%2f%2e%2e%2fcanary",
        "attachment; filename=/etc/canary",
        "inline; filename=other.safetensors",
    ],
)
def test_a_file_has_its_own_name_whatever_an_answer_calls_it(
    server: Server, disposition: str
) -> None:
    server.says = Answer(
        200,
        headers={"Content-Disposition": disposition, "Link": '</f>; rel="next"', "ETag": '"e"'},
        body=DATA,
    )
    with tempfile.TemporaryDirectory() as folder:
        fetching = Fetching(Path(folder) / "root")
        try:
            manifest = fetching.fetch("m", f"{server.endpoint}/w.safetensors")
        finally:
            fetching.close()
        assert [file.path for file in manifest.files] == ["w.safetensors"]
        names = {path.name for path in Path(folder).rglob("*")}
        assert "w.safetensors" in names
        assert not any("canary" in name or "other" in name for name in names)
        assert [path.name for path in Path(folder).iterdir()] == ["root"]


def test_a_redirect_that_leads_back_ends(server: Server) -> None:
    server.says = Answer(307, headers={"Location": "/f"})
    client = HttpClient(NETWORK, read_timeout=5.0)
    before = len(server.requests)
    with (
        pytest.raises(OriginUnavailable, match="in circles"),
        client.get(HttpLocation(f"{server.endpoint}/f"), 0, 9, 9, Cancel()),
    ):
        pass
    client.close()
    assert len(server.requests) - before == 6
