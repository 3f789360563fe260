"""What fetches of less important models have makes room for more important ones, and then it is
quiet: with a real store, real fetches and a limit to what the cache may take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from modelcache.api import CachedModel, ModelReport, ModelState
from modelcache.errors import Reason
from modelcache.planning.planner import Fetch
from modelcache.service.unwanted import Keeping
from modelcache.store import Capacity
from tests.component.service.daemon import Daemon
from tests.component.service.test_making_room import (
    MIB,
    ROOM,
    Around,
    check,
    held,
    leave,
    partial_files,
    pass_time,
    repo,
    wish,
)
from tests.support.hub import FlipBit, HubServer, Stall, Status


@pytest.fixture
def daemon(tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    running = Daemon(
        tmp_path / "root",
        Around(),
        Keeping(600.0, also_when_empty=True),
        capacity=Capacity(bytes=ROOM),
    )
    yield running
    running.close()


def half_fetched(daemon: Daemon, hub: HubServer, low: CachedModel, *others: CachedModel) -> None:
    """A model of six mebibytes of which a part is here, and whose origin is away."""
    leave(daemon, hub, low.name, 6, *others)
    hub.fault_api(Status(503, times=None), f"*org/{low.name}*")
    daemon.want(low, *others)
    pass_time(daemon, rounds=2)
    assert daemon.report(low.name).reason is Reason.ORIGIN_UNAVAILABLE
    assert partial_files(daemon) == {low.name}


def under_way(daemon: Daemon, hub: HubServer, low: CachedModel) -> None:
    """A model of six mebibytes whose fetch runs, and doesn't get on."""
    repo(hub, low.name, 6)
    hub.fault(f"org/{low.name}/weights*", Stall(after=MIB, times=None))
    daemon.want(low)
    while not partial_files(daemon):
        daemon.cycle()
        daemon.news.wait(0.05)
    assert daemon.crew.running()[low.name].kind is Fetch


def until(daemon: Daemon, name: str, is_it: Callable[[ModelReport], object]) -> None:
    """Rounds, a second each, until a model is told of so."""
    for _ in range(200):
        daemon.now += 1.0
        daemon.cycle()
        check(daemon)
        if is_it(daemon.report(name)):
            return
        daemon.news.wait(0.1)
    raise AssertionError(f"it never comes: {daemon.telling.reports()}")


def is_ready(report: ModelReport) -> bool:
    return report.state is ModelState.READY


def has_failed(report: ModelReport) -> bool:
    return report.attempts > 0


def test_what_a_failing_fetch_has_goes_for_a_more_important_model(
    daemon: Daemon, hub: HubServer
) -> None:
    """Before a whole model that is as important, and after that the other says why it waits."""
    for name in ("equal", "high"):
        repo(hub, name, 3)
    low, equal, high = wish("low", 1), wish("equal", 1), wish("high", 5)
    half_fetched(daemon, hub, low, equal)
    daemon.want(low, equal, high)
    until(daemon, "high", is_ready)
    assert held(daemon) == {"equal", "high"}
    assert partial_files(daemon) == set()
    assert daemon.evictions.gone == [("LowerPriorityFetch", "low")]
    hub.clear_faults()
    pass_time(daemon, 100, 60.0)
    told = daemon.report("low")
    assert (told.state, told.reason) == (ModelState.FAILED, Reason.INSUFFICIENT_DISK)
    assert "high has 3.0 MiB: its priority 5 is not lower than 1" in str(told.message)
    assert daemon.evictions.gone == [("LowerPriorityFetch", "low")]
    assert hub.bytes_sent("org/high/weights*") == 3 * MIB, "fetched twice"


def test_a_whole_model_that_is_less_important_goes_before_it(
    daemon: Daemon, hub: HubServer
) -> None:
    for name in ("least", "high"):
        repo(hub, name, 3)
    half_fetched(daemon, hub, wish("low", 2), wish("least", 1))
    daemon.want(wish("low", 2), wish("least", 1), wish("high", 5))
    pass_time(daemon)
    assert held(daemon) == {"high"}
    assert partial_files(daemon) == {"low"}
    assert daemon.evictions.gone == [("LowerPriority", "least")]


@pytest.mark.parametrize(
    ("low", "why"),
    [
        (wish("low", 5), "its priority 5 is not lower than 5"),
        (wish("low", 1, pinned=True), "its object is pinned"),
    ],
    ids=["as important", "pinned"],
)
def test_it_stays_where_it_is_as_important_or_pinned(
    daemon: Daemon, hub: HubServer, low: CachedModel, why: str
) -> None:
    repo(hub, "high", 6)
    half_fetched(daemon, hub, low)
    daemon.want(low, wish("high", 5))
    pass_time(daemon)
    assert partial_files(daemon) == {"low"}
    assert f"its next fetch may go on with it, and {why}" in str(daemon.report("high").message)


def test_a_fetch_that_runs_is_stopped_first(daemon: Daemon, hub: HubServer) -> None:
    repo(hub, "high", 6)
    low = wish("low", 1)
    under_way(daemon, hub, low)
    with structlog.testing.capture_logs() as logs:
        daemon.want(low, wish("high", 5))
        until(daemon, "high", is_ready)
    assert daemon.evictions.gone == [("LowerPriorityFetch", "low")]
    told = [each for each in logs if each["event"] in ("fetch.stopped", "leftover.removed")]
    assert [(each["event"], each["model"]) for each in told] == [
        ("fetch.stopped", "low"),
        ("leftover.removed", "low"),
    ]
    assert told[0]["message"] == "makes room for high: being fetched, priority 1, lower than 5"
    assert told[1]["message"] == "unfinished, priority 1, lower than 5"
    pass_time(daemon, 20, 60.0)
    assert held(daemon) == {"high"}
    assert daemon.report("low").reason is Reason.INSUFFICIENT_DISK


def test_a_fetch_is_not_stopped_in_vain(daemon: Daemon, hub: HubServer) -> None:
    repo(hub, "high", 12)
    low = wish("low", 1)
    under_way(daemon, hub, low)
    daemon.want(low, wish("high", 5))
    until(daemon, "high", has_failed)
    assert daemon.report("high").reason is Reason.INSUFFICIENT_DISK
    assert daemon.report("low").state is ModelState.DOWNLOADING
    assert "low has 6.0 MiB: it may go, and that would not be enough" in str(
        daemon.report("high").message
    )


def test_it_does_not_come_back_between_the_tries_of_what_it_made_room_for(
    daemon: Daemon, hub: HubServer
) -> None:
    repo(hub, "high", 6)
    hub.fault("org/high/weights*", FlipBit(MIB, times=None))
    low = wish("low", 1)
    under_way(daemon, hub, low)
    daemon.want(low, wish("high", 5))
    until(daemon, "high", has_failed)
    hub.clear_faults()
    hub.fault("org/high/weights*", FlipBit(MIB, times=None))
    pass_time(daemon, 100, 60.0)
    assert daemon.report("high").reason is Reason.CHECKSUM_MISMATCH
    assert len(daemon.evictions.gone) <= 4, "once in an hour"
