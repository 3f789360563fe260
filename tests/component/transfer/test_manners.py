"""A host that asks for fewer requests gets fewer, from all jobs; other hosts notice nothing."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from modelcache.errors import OriginUnavailable
from modelcache.origins.hf import HuggingFaceOrigin
from modelcache.origins.protocol import HttpLocation, RemoteFile
from modelcache.transfer import Cancel, TransferSettings, hosts
from modelcache.transfer.events import BytesReceived, Event, FetchEnded, HostPaused
from modelcache.transfer.receiving import Receiver
from tests.component.transfer.conftest import MakeFetching
from tests.support.fetching import QUICK, Fetching
from tests.support.hub import GeneratedContent, HubServer, Source, Status
from tests.support.ioprio import priority_on_disk

MIB = 1024 * 1024


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer(hosts=("127.0.0.5", "127.0.0.6")) as server:
        yield server


def cdn_requests(hub: HubServer) -> int:
    return sum(request.server == "cdn" for request in hub.requests)


def test_one_refusal_holds_back_all_jobs_of_that_host_and_no_other(
    hub: HubServer,
    other: HubServer,
    make_fetching: MakeFetching,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetching = make_fetching(TransferSettings(connections=4))
    for name in ("a", "b"):
        hub.add_repo(f"org/{name}", {f"{name}.safetensors": GeneratedContent(5 * MIB, ord(name))})
    hub.fault("a.safetensors", Status(429, retry_after=60, times=None))
    cancel = Cancel()
    limited = fetching.in_background("a", "hf://org/a", cancel=cancel)
    paused = _wait_for_pause(fetching)
    assert paused.seconds >= 59
    assert paused.status == 429
    assert paused.host == hub.cdn_url.removeprefix("http://")
    asked = cdn_requests(hub)
    held = fetching.in_background("b", "hf://org/b", cancel=cancel)
    other.add_repo("org/c", {"c.safetensors": GeneratedContent(40 * MIB, 5)})
    monkeypatch.setenv("HF_ENDPOINT", other.url)
    manifest = fetching.fetch("c", "hf://org/c")
    assert fetching.store.verify(manifest) == []
    assert cdn_requests(hub) == asked, "the host was not left alone"
    assert not held.ended(0)
    cancel.set()
    assert held.ended(10)
    assert limited.ended(10)


def _wait_for_pause(fetching: Fetching) -> HostPaused:
    with fetching.news:
        assert fetching.news.wait_for(lambda: fetching.told(HostPaused), 20)
    return fetching.told(HostPaused)[0]


def test_half_the_connections_are_left_after_a_refusal(
    hub: HubServer, make_fetching: MakeFetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "_GROW_SECONDS", math.inf)
    fetching = make_fetching(replace(QUICK, connections=4))
    files: dict[str, Source] = {f"{n}.safetensors": GeneratedContent(20 * MIB, n) for n in range(8)}
    hub.add_repo("org/a", files)
    hub.set_rate(40 * MIB)
    run = fetching.in_background("a", "hf://org/a")
    assert hub.wait_until(
        lambda requests: sum(r.server == "cdn" and not r.finished for r in requests) >= 4
    )
    hub.fault("*.safetensors", Status(503))
    assert _wait_for_pause(fetching).connections == 2
    # Those that were under way may end; what begins from now on is counted.
    known = len(hub.requests)
    assert hub.wait_until(
        lambda requests: all(r.finished for r in requests[:known] if r.server == "cdn")
    )
    assert hub.most_at_once("cdn") == 4
    run.result()
    assert hub.most_at_once("cdn") == 2


def test_no_more_connections_to_one_host_than_allowed(
    hub: HubServer, make_fetching: MakeFetching
) -> None:
    fetching = make_fetching(TransferSettings(connections=6, host_connections=2))
    files: dict[str, Source] = {f"{n}.safetensors": GeneratedContent(9 * MIB, n) for n in range(6)}
    hub.add_repo("org/a", files)
    hub.set_rate(100 * MIB)
    fetching.fetch("a", "hf://org/a")
    assert hub.most_at_once("cdn") == 2


def test_the_end_of_a_fetch_tells_where_the_time_went(
    hub: HubServer, make_fetching: MakeFetching
) -> None:
    hub.add_repo("org/a", {"a.safetensors": GeneratedContent(20 * MIB, 1)})
    fetching = make_fetching(replace(QUICK, origin_bandwidth={"hf": 20 * MIB}))
    fetching.fetch("a", "hf://org/a")
    (ended,) = fetching.told(FetchEnded)
    assert ended.times.bounded_by == "limit"
    assert min(ended.times.by_activity.values()) > 0


def test_all_that_fetches_has_the_priority_on_the_disk(
    hub: HubServer, make_fetching: MakeFetching
) -> None:
    files: dict[str, Source] = {f"{n}.safetensors": GeneratedContent(9 * MIB, n) for n in range(6)}
    hub.add_repo("org/a", files)
    fetching = make_fetching(TransferSettings(connections=4, io_priority="idle"))
    found: dict[str, int] = {}

    def look(event: Event) -> None:
        if isinstance(event, BytesReceived):  # told by the thread that wrote them
            found[threading.current_thread().name] = priority_on_disk()[0]

    fetching.on_event = look
    fetching.fetch("a", "hf://org/a")
    assert len(found) >= 2
    assert set(found.values()) == {3}
    assert priority_on_disk()[0] != 3


def test_asking_where_a_file_is_counts_as_time_of_the_origins(
    hub: HubServer, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/a", {"a.safetensors": GeneratedContent(MIB, 1)})
    real, took = HuggingFaceOrigin.locate, list[float]()

    def locate(origin: HuggingFaceOrigin, file: RemoteFile) -> HttpLocation:
        began = time.perf_counter()
        try:
            return real(origin, file)
        finally:
            took.append(time.perf_counter() - began)

    monkeypatch.setattr(HuggingFaceOrigin, "locate", locate)

    def nothing(*_: object) -> None:
        raise OriginUnavailable("no")

    monkeypatch.setattr(Receiver, "receive", nothing)
    with pytest.raises(OriginUnavailable):
        fetching.fetch("a", "hf://org/a")
    (ended,) = fetching.told(FetchEnded)
    assert ended.times.origin >= sum(took) > 0
