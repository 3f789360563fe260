"""Every fault of the suite's own Hub, seen with nothing but http.client.

A fault that does not do what it says makes the tests that rely on it pass for nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.hub import (
    BytesContent,
    Fault,
    File,
    FlipBit,
    GeneratedContent,
    HubServer,
    IgnoreRange,
    Replace,
    Reset,
    ShortBody,
    Stall,
    Status,
    Trickle,
    WrongContentRange,
    WrongLength,
)
from tests.support.hub.client import Answer, get, opened

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


# Faults


def test_flip_bit_touches_one_bit_once(hub: HubServer, weights: str) -> None:
    at = (1 << 20) + 3
    hub.fault("model*.safetensors", FlipBit(at, bit=2))
    assert get(weights, Range=f"bytes=0-{at - 1}").body == DATA[:at]
    damaged = get(weights).body
    assert [i for i in range(SIZE) if damaged[i] != DATA[i]] == [at]
    assert damaged[at] ^ DATA[at] == 4
    assert get(weights).body == DATA


def test_short_body_closes_early(hub: HubServer, weights: str) -> None:
    hub.fault(f"{REPO}/*", ShortBody(after=1_500_000))
    with opened(weights) as response:
        assert response.getheader("Content-Length") == str(SIZE)
        with pytest.raises(http.client.IncompleteRead) as raised:
            response.read()
    assert raised.value.partial == DATA[:1_500_000]
    assert hub.bytes_sent() == 1_500_000


@pytest.mark.parametrize(("delta", "expected"), [(5, SMALL + bytes(5)), (-5, SMALL[:-5])])
def test_wrong_length_is_consistent_with_itself(
    hub: HubServer, small: str, delta: int, expected: bytes
) -> None:
    hub.fault("small.txt", WrongLength(delta, times=2))
    assert get(small).body == expected
    answer = get(small, Range="bytes=90-")
    assert answer.headers["content-range"] == f"bytes 90-{99 + delta}/{100 + delta}"
    assert answer.body == expected[90:]


def test_wrong_content_range(hub: HubServer, small: str) -> None:
    hub.fault("small.txt", WrongContentRange(shift=3))
    assert get(small).body == SMALL
    answer = get(small, Range="bytes=10-19")
    assert (answer.status, answer.headers["content-range"]) == (206, "bytes 13-22/100")
    assert answer.body == SMALL[10:20]


def test_ignore_range(hub: HubServer, small: str) -> None:
    hub.fault("small.txt", IgnoreRange())
    answer = get(small, Range="bytes=10-19")
    assert (answer.status, answer.body) == (200, SMALL)
    assert get(small, Range="bytes=10-19").status == 206


def test_replace_keeps_the_url_and_changes_the_tag(hub: HubServer, weights: str) -> None:
    before = get(weights, Range="bytes=0-9").headers["etag"]
    other = GeneratedContent(SIZE - 7, seed=9)
    hub.fault("model.safetensors", Replace(other))
    for _ in range(2):
        answer = get(weights)
        assert answer.body == other.data()
        assert answer.headers["etag"] != before
    assert get(weights, If_Match=before, Range="bytes=0-9").status == 412
    assert resolve(hub, "model.safetensors").headers["x-linked-etag"] == f'"{other.sha256()}"'
    hub.clear_faults()
    assert get(weights, If_Match=before, Range="bytes=0-9").body == DATA[:10]


def test_statuses_come_in_the_order_of_the_queue(hub: HubServer, small: str) -> None:
    hub.fault("small.txt", Status(429, retry_after=7))
    hub.fault("small.txt", Status(503, body=b"busy", times=2))
    answer = get(small)
    assert (answer.status, answer.headers["retry-after"]) == (429, "7")
    assert [get(small).body for _ in range(3)] == [b"busy", b"busy", SMALL]


def test_a_fault_for_ever_stays_until_it_is_cleared(hub: HubServer, small: str) -> None:
    hub.fault("small.txt", Status(500, times=None))
    assert {get(small).status for _ in range(5)} == {500}
    hub.clear_faults()
    assert get(small).status == 200


def test_stall_ends_with_its_event(hub: HubServer, weights: str) -> None:
    go_on = threading.Event()
    hub.fault("model.safetensors", Stall(after=1000, until=go_on))
    with opened(weights) as response:
        assert response.read(1000) == DATA[:1000]
        assert hub.bytes_sent() == 1000
        go_on.set()
        assert response.read() == DATA[1000:]


def test_stall_ends_when_the_client_leaves(hub: HubServer, weights: str) -> None:
    hub.fault("model.safetensors", Stall(after=1000))
    with opened(weights) as response:
        assert response.read(1000) == DATA[:1000]
    assert hub.wait_until(lambda requests: requests[-1].finished)
    assert hub.requests[-1].bytes_sent == 1000


def test_stall_ends_after_its_time(hub: HubServer, small: str) -> None:
    hub.fault("small.txt", Stall(after=1, until=0.1))
    began = time.monotonic()
    assert get(small).body == SMALL
    assert time.monotonic() - began >= 0.1


def test_trickle_and_rate_set_the_pace(hub: HubServer, small: str) -> None:
    hub.fault("small.txt", Trickle(bytes_per_second=500))
    began = time.monotonic()
    assert get(small).body == SMALL
    assert 0.2 <= time.monotonic() - began < 2
    hub.set_rate(500)
    began = time.monotonic()
    assert get(small).body == SMALL
    assert 0.2 <= time.monotonic() - began < 2
    hub.set_rate(None)


def test_reset_is_a_reset(hub: HubServer, weights: str) -> None:
    hub.fault("model.safetensors", Reset(after=5000))
    with opened(weights) as response:
        assert response.read(5000) == DATA[:5000]
        with pytest.raises(ConnectionResetError):
            response.read(1)


@pytest.mark.parametrize("fault", [Status(500), Reset(), Stall(until=0.05)])
def test_api_faults_spare_the_bodies(hub: HubServer, weights: str, fault: Fault) -> None:
    assert isinstance(fault, Status | Reset | Stall)
    hub.fault_api(fault, "/api/*/tree/*")
    assert get(weights).status == 200
    tree = f"{hub.url}/api/models/{REPO}/tree/main"
    if isinstance(fault, Reset):
        with pytest.raises(ConnectionResetError):
            get(tree)
    else:
        assert get(tree).status == (500 if isinstance(fault, Status) else 200)
    assert get(tree).status == 200


# The server as a whole


def test_offline_and_back(hub: HubServer, weights: str, small: str) -> None:
    hub.online = False
    assert {get(weights).status, get(small).status} == {503}
    hub.online = True
    assert {get(weights).status, get(small).status} == {200}


def test_refusing_and_accepting_again(hub: HubServer, weights: str, small: str) -> None:
    hub.fault("model.safetensors", Stall(after=10))
    with opened(weights) as response:
        assert response.read(10) == DATA[:10]
        hub.refuse_connections()
        with pytest.raises(http.client.IncompleteRead):
            response.read()
    for url in (weights, small):
        with pytest.raises(ConnectionRefusedError):
            get(url)
    hub.accept_connections()
    assert {get(weights).status, get(small).status} == {200}


def test_one_connection_carries_many_requests(hub: HubServer, small: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(hub.url).netloc, timeout=10)
    with contextlib.closing(connection):
        for _ in range(3):
            connection.request("GET", urlsplit(small).path)
            first = connection.sock
            assert connection.getresponse().read() == SMALL
            assert connection.sock is first


def test_stopping_is_prompt_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with contextlib.ExitStack() as clients:
        with HubServer() as hub:
            hub.add_repo(REPO, {"model.safetensors": WEIGHTS, "small.txt": SMALL})
            hub.fault("model.safetensors", Stall(after=10, times=None))
            url = resolve(hub, "model.safetensors").headers["location"]
            for _ in range(4):
                clients.enter_context(opened(url)).read(10)
            hub.set_rate(1)
            clients.enter_context(opened(f"{hub.url}/{REPO}/resolve/main/small.txt"))
            began = time.monotonic()
        assert time.monotonic() - began < 1
        assert set(threading.enumerate()) == before
        assert [request.finished for request in hub.requests] == [True] * 6


def test_a_repository_that_is_gone(hub: HubServer, weights: str, small: str) -> None:
    hub.remove_repo(REPO)
    assert get(small).headers["x-error-code"] == "RepoNotFound"
    assert b"<Code>NoSuchKey</Code>" in get(weights).body


def test_a_failing_handler_fails_the_test() -> None:
    class Unreadable(BytesContent):
        def read(self, start: int, end: int) -> Iterator[bytes | memoryview]:
            raise OSError("no disk is behind this")

    hub = HubServer()
    # Nobody else's content: its digest, made before the answer's head, would be known already.
    unread = Unreadable(b"content of this test alone")
    hub.add_repo(REPO, {"model.safetensors": File(unread, lfs=False)})
    with pytest.raises(http.client.RemoteDisconnected):
        resolve(hub, "model.safetensors")
    with pytest.raises(RuntimeError, match="the test server failed"):
        hub.__exit__(None, None, None)
