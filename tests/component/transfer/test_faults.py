"""Whatever the origin does: never a committed wrong byte, the right reason, and it heals."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from modelcache.api import Manifest
from modelcache.errors import (
    AuthFailed,
    ChecksumMismatch,
    ModelCacheError,
    NotFound,
    OriginChanged,
    OriginUnavailable,
    RateLimited,
    Reason,
)
from modelcache.store import Reservation
from modelcache.transfer.filefetch import FileFetch
from tests.component.transfer.conftest import MakeFetching
from tests.support.fetching import QUICK, Fetching
from tests.support.hub import (
    FlipBit,
    GeneratedContent,
    HubServer,
    IgnoreRange,
    Replace,
    Reset,
    ShortBody,
    Source,
    Stall,
    Status,
    WrongContentRange,
    WrongLength,
)

MIB = 1024 * 1024
SIZE = 40 * MIB + 123
WEIGHTS = "model.safetensors"
URI = "hf://org/model"


@pytest.fixture
def content(hub: HubServer) -> GeneratedContent:
    content = GeneratedContent(SIZE, seed=7)
    hub.add_repo("org/model", {WEIGHTS: content, "config.json": b"{}"})
    return content


def assert_whole(fetching: Fetching, manifest: Manifest, content: GeneratedContent) -> None:
    file = next(file for file in manifest.files if file.path == WEIGHTS)
    assert file.sha256 == content.sha256()
    assert fetching.store.verify(manifest) == []


def assert_nothing_committed(root: Path) -> None:
    assert not list((root / "manifests").rglob("*.json"))
    assert not (root / "models" / "model" / "current").is_symlink()


ONCE = [
    FlipBit(offset=33 * MIB + 5),
    ShortBody(after=3 * MIB + 77),
    ShortBody(after=0),
    WrongLength(delta=-5),
    WrongContentRange(shift=1),
    Reset(after=2 * MIB),
    Status(503),
    Status(500, body=b"oops"),
    Status(429, retry_after=0),
    Status(408),
]


@pytest.mark.parametrize("fault", ONCE, ids=repr)
def test_a_passing_fault_heals(
    hub: HubServer, fetching: Fetching, content: GeneratedContent, fault: object
) -> None:
    hub.fault(WEIGHTS, fault)  # type: ignore[arg-type]
    if isinstance(fault, WrongLength):
        # The object's length is part of its identity, so this is another object: resolve again.
        with pytest.raises(OriginChanged):
            fetching.fetch("model", URI)
        assert_nothing_committed(fetching.root)
    else:
        manifest = fetching.fetch("model", URI)
        assert_whole(fetching, manifest, content)
        assert fetching.retries, "the fault went unnoticed"
        return
    assert_whole(fetching, fetching.fetch("model", URI), content)


FOR_EVER: list[tuple[object, type[ModelCacheError], Reason]] = [
    (FlipBit(offset=MIB, times=None), ChecksumMismatch, Reason.CHECKSUM_MISMATCH),
    (ShortBody(after=0, times=None), OriginUnavailable, Reason.ORIGIN_UNAVAILABLE),
    (WrongContentRange(shift=1, times=None), OriginUnavailable, Reason.ORIGIN_UNAVAILABLE),
    (Reset(after=0, times=None), OriginUnavailable, Reason.ORIGIN_UNAVAILABLE),
    (Status(503, times=None), OriginUnavailable, Reason.ORIGIN_UNAVAILABLE),
    (Status(429, times=None), RateLimited, Reason.RATE_LIMITED),
    (Status(404, times=None), NotFound, Reason.NOT_FOUND),
    (Status(403, times=None), AuthFailed, Reason.AUTH_FAILED),
]


@pytest.mark.parametrize(("fault", "error", "reason"), FOR_EVER, ids=lambda value: repr(value))
def test_a_lasting_fault_has_its_reason_and_heals_when_the_origin_does(
    hub: HubServer,
    fetching: Fetching,
    content: GeneratedContent,
    fault: object,
    error: type[ModelCacheError],
    reason: Reason,
) -> None:
    hub.fault(WEIGHTS, fault)  # type: ignore[arg-type]
    with pytest.raises(error) as raised:
        fetching.fetch("model", URI)
    assert raised.value.reason is reason
    assert "\n" not in str(raised.value)
    assert_nothing_committed(fetching.root)
    hub.clear_faults()
    assert_whole(fetching, fetching.fetch("model", URI), content)


def test_what_came_before_a_broken_connection_is_not_fetched_again(
    hub: HubServer, fetching: Fetching, content: GeneratedContent
) -> None:
    for _ in range(5):
        hub.fault(WEIGHTS, ShortBody(after=5 * MIB + 300_000))
    assert_whole(fetching, fetching.fetch("model", URI), content)
    assert hub.bytes_sent() == fetching.received == SIZE + 2


def test_an_object_replaced_half_way_is_never_mixed(
    hub: HubServer, make_fetching: MakeFetching
) -> None:
    # Fewer connections than ranges, so that some are asked for after the change.
    fetching = make_fetching(replace(QUICK, connections=2))
    content, other = GeneratedContent(SIZE, seed=7), GeneratedContent(SIZE, seed=8)
    hub.add_repo("org/model", {WEIGHTS: content, "config.json": b"{}"})
    hub.set_rate(20 * MIB)
    background = fetching.in_background("model", URI)
    assert hub.wait_until(lambda requests: sum(r.bytes_sent for r in requests) > 4 * MIB)
    hub.fault(WEIGHTS, Replace(other))
    hub.set_rate(None)
    with pytest.raises((OriginChanged, ChecksumMismatch)):
        background.result()
    assert_nothing_committed(fetching.root)
    hub.clear_faults()
    assert_whole(fetching, fetching.fetch("model", URI), content)


def test_a_server_that_ignores_ranges_is_read_from_start_to_end(
    hub: HubServer, fetching: Fetching, content: GeneratedContent
) -> None:
    hub.fault(WEIGHTS, IgnoreRange(times=None))
    assert_whole(fetching, fetching.fetch("model", URI), content)
    assert SIZE <= fetching.received < SIZE + 8 * MIB


def test_a_server_that_ignores_ranges_and_breaks_off_makes_progress(
    hub: HubServer, fetching: Fetching, content: GeneratedContent
) -> None:
    hub.fault(WEIGHTS, ShortBody(after=10 * MIB, times=1))
    hub.fault(WEIGHTS, IgnoreRange(times=None))
    assert_whole(fetching, fetching.fetch("model", URI), content)


def test_expired_urls_are_renewed_in_mid_download(
    hub: HubServer, make_fetching: MakeFetching, content: GeneratedContent
) -> None:
    fetching = make_fetching(replace(QUICK, connections=2))
    hub.set_rate(20 * MIB)
    background = fetching.in_background("model", URI)
    for sent in (4 * MIB, 20 * MIB):
        assert hub.wait_until(lambda requests, n=sent: sum(r.bytes_sent for r in requests) > n)  # type: ignore[misc]
        hub.expire_urls()
    hub.set_rate(None)
    assert_whole(fetching, background.result(), content)
    assert any(request.status == 403 for request in hub.requests)
    assert fetching.received == SIZE + 2


def test_a_failed_job_stops_what_else_it_is_doing(
    hub: HubServer, make_fetching: MakeFetching
) -> None:
    fetching = make_fetching(replace(QUICK, read_timeout=60.0))
    hub.add_repo("org/a", {"a.safetensors": GeneratedContent(9 * MIB, 1), "z.safetensors": b"gone"})
    hub.fault("a.safetensors", Stall(after=2 * MIB, times=None))
    hub.fault("z.safetensors", Status(404, times=None))
    with pytest.raises(NotFound):
        fetching.in_background("a", "hf://org/a").result(20.0)


def test_a_file_being_opened_has_somebody_at_work(
    hub: HubServer, fetching: Fetching, content: GeneratedContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else another could close it, or have it begin anew, while its opener hashes what is there."""
    counted: list[int] = []
    real = FileFetch.drain

    def drain(fetch: FileFetch) -> None:
        counted.append(fetch.in_flight)
        real(fetch)

    monkeypatch.setattr(FileFetch, "drain", drain)
    assert_whole(fetching, fetching.fetch("model", URI), content)
    assert min(counted) >= 1


def test_space_of_a_small_file_is_used_once_however_often_it_is_begun(
    hub: HubServer, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumed: list[int] = []
    real = Reservation.consume

    def consume(reservation: Reservation, size: int) -> None:
        consumed.append(size)
        real(reservation, size)

    monkeypatch.setattr(Reservation, "consume", consume)
    small = GeneratedContent(MIB, 5)
    hub.add_repo("org/small", {"small.safetensors": small})
    hub.fault("small.safetensors", FlipBit(offset=5))
    fetching.fetch("small", "hf://org/small")
    assert fetching.retries
    assert consumed == [MIB]


def test_retry_after_is_honoured(
    hub: HubServer, make_fetching: MakeFetching, content: GeneratedContent
) -> None:
    fetching = make_fetching(replace(QUICK, most_delay=5.0))
    hub.fault("config.json", Status(429, retry_after=1))
    began = time.monotonic()
    assert_whole(fetching, fetching.fetch("model", URI), content)
    assert time.monotonic() - began >= 1.0
    assert [retry.reason for retry in fetching.retries] == [Reason.RATE_LIMITED]


def test_no_credentials_go_to_another_host(
    hub: HubServer, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    files: dict[str, Source] = {"a.safetensors": GeneratedContent(9 * MIB), "b.txt": b"x"}
    hub.add_repo("org/secret", files, private=True, token="hf_planted")
    fetching.fetch("secret", "hf://org/secret")
    to_cdn = [request for request in hub.requests if request.server == "cdn"]
    assert to_cdn
    assert not any("authorization" in request.headers for request in to_cdn)
    for path in fetching.root.rglob("*"):
        assert not path.is_file() or b"hf_planted" not in path.read_bytes()[:4096]
