"""Content, ranges, preconditions and signed URLs of the suite's own Hub."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.hub import BytesContent, GeneratedContent, HubServer
from tests.support.hub.client import Answer, get

REPO = "org/name"
SIZE = 3 * (1 << 20) + 77
WEIGHTS = GeneratedContent(SIZE, seed=5)
DATA = WEIGHTS.data()
SMALL = bytes(range(100))


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_repo(REPO, {"model.safetensors": WEIGHTS, "small.txt": SMALL})
        yield server


@pytest.fixture
def weights(hub: HubServer) -> str:
    return resolve(hub, "model.safetensors").headers["location"]


@pytest.fixture
def small(hub: HubServer) -> str:
    return f"{hub.url}/{REPO}/resolve/main/small.txt"


def resolve(hub: HubServer, path: str) -> Answer:
    return get(f"{hub.url}/{REPO}/resolve/main/{path}")


# Content


def test_git_and_lfs_name_content_as_everybody_does() -> None:
    hello = BytesContent(b"hello\n")
    assert hello.git_sha1() == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert hello.sha256() == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"


def test_generated_content_is_a_function_of_its_position() -> None:
    for start, end in ((0, 1), (3, 20), ((1 << 20) - 5, (1 << 20) + 5), (SIZE - 9, SIZE)):
        assert b"".join(WEIGHTS.read(start, end)) == DATA[start:end]
    sections = {DATA[at : at + (1 << 20)] for at in range(0, SIZE, 1 << 20)}
    assert len(sections) == 4
    assert GeneratedContent(SIZE, seed=6).data() != DATA


def test_twenty_gibibytes_need_no_memory() -> None:
    size = 20 << 30
    tail = b"".join(GeneratedContent(size, seed=1).read(size - (5 << 20), size))
    head = b"".join(GeneratedContent(size, seed=1).read(0, 5 << 20))
    assert len(tail) == 5 << 20
    assert tail != head


# Ranges and preconditions


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-1048600", 10, 1048601),
        (f"bytes={SIZE - 7}-", SIZE - 7, SIZE),
        ("bytes=5-99999999999", 5, SIZE),
        ("bytes=-9", SIZE - 9, SIZE),
    ],
)
def test_a_range_is_answered_with_its_bytes(weights: str, asked: str, start: int, end: int) -> None:
    answer = get(weights, Range=asked)
    assert answer.status == 206
    assert answer.body == DATA[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", "bytes=-0"])
def test_a_range_outside_is_unsatisfiable(weights: str, asked: str) -> None:
    answer = get(weights, Range=asked)
    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{SIZE}")


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "bytes=9-3", "bytes=-", "lines=0-1", "junk"])
def test_other_ranges_are_ignored(small: str, asked: str) -> None:
    answer = get(small, Range=asked)
    assert (answer.status, answer.body) == (200, SMALL)


def test_preconditions(weights: str, small: str) -> None:
    for url in (weights, small):
        etag = get(url).headers["etag"]
        assert get(url, If_Match=f'"other", {etag}', Range="bytes=0-9").status == 206
        assert get(url, If_Match='"other"', Range="bytes=0-9").status == 412
        assert get(url, If_Range=etag, Range="bytes=0-9").status == 206
        assert get(url, If_Range='"other"', Range="bytes=0-9").status == 200


def test_the_tag_of_the_cdn_is_no_digest(hub: HubServer, weights: str) -> None:
    linked = resolve(hub, "model.safetensors").headers["x-linked-etag"]
    assert linked == f'"{WEIGHTS.sha256()}"'
    assert WEIGHTS.sha256() not in get(weights, Range="bytes=0-9").headers["etag"]


# Signed URLs


def test_a_signed_url_cannot_be_changed(weights: str) -> None:
    for url in (weights[:-1], weights.replace("Expires=", "Expires=9"), weights.split("?")[0]):
        answer = get(url)
        assert answer.status == 403
        assert b"<Code>SignatureDoesNotMatch</Code>" in answer.body


def test_signed_urls_expire(hub: HubServer, weights: str) -> None:
    hub.expire_urls()
    answer = get(weights)
    assert (answer.status, answer.headers["content-type"]) == (403, "application/xml")
    assert b"Request has expired" in answer.body
    assert get(resolve(hub, "model.safetensors").headers["location"]).status == 200


def test_a_lifetime_of_nothing() -> None:
    with HubServer(url_lifetime=0) as hub:
        hub.add_repo(REPO, {"model.safetensors": b"x"})
        assert b"expired" in get(resolve(hub, "model.safetensors").headers["location"]).body
