"""Nothing is fetched twice that is known to be the same; nothing holds up anything else."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from modelcache.transfer import Cancel, TransferSettings
from modelcache.transfer.events import BytesLeft, BytesReceived, Event, FileFinished
from tests.component.transfer.conftest import MakeFetching
from tests.support.fetching import QUICK, Fetching
from tests.support.hub import GeneratedContent, HubServer, Source, Stall, Status

MIB = 1024 * 1024


def test_content_that_another_model_has_is_linked(hub: HubServer, fetching: Fetching) -> None:
    shared = GeneratedContent(9 * MIB, seed=1)
    hub.add_repo("org/a", {"model.safetensors": shared, "config.json": b"same"})
    hub.add_repo("org/b", {"weights/w.safetensors": shared, "config.json": b"same"})
    fetching.fetch("a", "hf://org/a")
    before = fetching.received
    manifest = fetching.fetch("b", "hf://org/b")
    assert fetching.received == before
    assert fetching.store.verify(manifest) == []
    root = fetching.root
    assert os.path.samefile(
        root / "models/a/current/model.safetensors", root / "models/b/current/weights/w.safetensors"
    )


def test_content_that_is_being_fetched_is_waited_for(hub: HubServer, fetching: Fetching) -> None:
    shared = GeneratedContent(40 * MIB, seed=1)
    for name in ("a", "b", "c"):
        hub.add_repo(f"org/{name}", {f"{name}.safetensors": shared})
    hub.set_rate(80 * MIB)
    runs = [fetching.in_background(name, f"hf://org/{name}") for name in ("a", "b", "c")]
    for run in runs:
        assert fetching.store.verify(run.result()) == []
    assert fetching.received == 40 * MIB


def test_small_content_is_fetched_once_too(hub: HubServer, fetching: Fetching) -> None:
    files: dict[str, Source] = {f"{n}.json": b"%06d" % n * 9000 for n in range(60)}
    for name in ("a", "b", "c"):
        hub.add_repo(f"org/{name}", {f"{name}/{path}": data for path, data in files.items()})
    hub.set_rate(4 * MIB)
    runs = [fetching.in_background(name, f"hf://org/{name}") for name in ("a", "b", "c")]
    for run in runs:
        assert fetching.store.verify(run.result()) == []
    assert hub.bytes_sent() == 60 * 54_000


def test_two_stores_on_one_root_fetch_once(hub: HubServer, make_fetching: MakeFetching) -> None:
    hub.add_repo("org/a", {"a.safetensors": GeneratedContent(40 * MIB, seed=1)})
    hub.set_rate(80 * MIB)
    one, other = make_fetching(), make_fetching()
    runs = [f.in_background("a", "hf://org/a") for f in (one, other)]
    for run in runs:
        assert one.store.verify(run.result()) == []
    assert one.received + other.received == 40 * MIB


def test_a_new_revision_fetches_only_what_is_new(hub: HubServer, fetching: Fetching) -> None:
    hub.add_repo(
        "org/a",
        {"1.safetensors": GeneratedContent(9 * MIB, 1), "config.json": b"old", "k.json": b"k"},
    )
    first = fetching.fetch("a", "hf://org/a")
    before = fetching.received
    hub.commit("org/a", {"config.json": b"newer"})
    second = fetching.fetch("a", "hf://org/a")
    assert fetching.received - before == len(b"newer")
    assert first.snapshot != second.snapshot
    assert (fetching.root / "models/a/current").readlink().name == second.snapshot
    assert fetching.store.verify(first) == fetching.store.verify(second) == []


def test_a_hanging_model_holds_up_no_other(hub: HubServer, make_fetching: MakeFetching) -> None:
    fetching = make_fetching(TransferSettings(connections=4, read_timeout=60.0))
    for number in range(6):
        name = f"bad-{number}"
        hub.add_repo(f"org/{name}", {f"{name}.safetensors": GeneratedContent(60 * MIB, number)})
    hub.fault("bad-*.safetensors", Stall(after=0, times=None))
    hub.add_repo("org/good", {"good.safetensors": GeneratedContent(60 * MIB, 99)})
    bad = [fetching.in_background("bad-0", "hf://org/bad-0", priority=9)]
    assert hub.wait_until(
        lambda requests: sum(r.server == "cdn" and not r.finished for r in requests) >= 4
    )
    bad += [
        fetching.in_background(f"bad-{n}", f"hf://org/bad-{n}", priority=9) for n in range(1, 6)
    ]
    good = fetching.in_background("good", "hf://org/good")
    assert fetching.store.verify(good.result(20.0)) == []
    assert not any(run.ended(0) for run in bad)
    # It came when four connections had been silent twice: each of the others had one before any of
    # them got a second one.
    asked = [request.repo for request in hub.requests if request.server == "cdn"]
    assert asked.index("org/good") < 12


def test_no_more_connections_than_allowed(hub: HubServer, make_fetching: MakeFetching) -> None:
    fetching = make_fetching(TransferSettings(connections=3))
    names = ("a", "b", "c")
    for name in names:
        files: dict[str, Source] = {
            f"{name}{n}.safetensors": GeneratedContent(9 * MIB, n + ord(name)) for n in range(4)
        }
        hub.add_repo(f"org/{name}", files)
    hub.set_rate(150 * MIB)
    runs = [fetching.in_background(name, f"hf://org/{name}") for name in names]
    most = 0
    while not all(run.ended(0.01) for run in runs):
        most = max(most, sum(r.server == "cdn" and not r.finished for r in hub.requests))
    for run in runs:
        run.result()
    assert 2 <= most <= 3


def test_space_that_a_file_has_is_promised_no_more(
    hub: HubServer, make_fetching: MakeFetching
) -> None:
    fetching = make_fetching()
    hub.add_repo("org/a", {"a.safetensors": GeneratedContent(600 * MIB, 1)})
    hub.fault("a.safetensors", Stall(after=MIB, times=None))
    cancel = Cancel()
    run = fetching.in_background("a", "hf://org/a", cancel=cancel)
    assert hub.wait_until(
        lambda requests: any(r.server == "cdn" and r.bytes_sent for r in requests)
    )
    assert fetching.store.space.measure().reserved < 300 * MIB
    cancel.set()
    run.ended(5)
    assert fetching.store.space.measure().reserved == 0


def test_an_empty_model_file_and_a_deep_path(hub: HubServer, fetching: Fetching) -> None:
    deep = "/".join(["d" * 40] * 6) + "/ü n.json"
    hub.add_repo("org/a", {"empty.txt": b"", "also-empty.txt": b"", deep: b"{}", "x/y": b"z"})
    manifest = fetching.fetch("a", "hf://org/a")
    assert fetching.store.verify(manifest) == []
    current = fetching.root / "models/a/current"
    assert (current / "empty.txt").read_bytes() == b""
    assert (current / "also-empty.txt").read_bytes() == b""
    assert (current / deep).read_bytes() == b"{}"


def test_a_missing_file_ends_only_its_own_model(hub: HubServer, fetching: Fetching) -> None:
    hub.add_repo("org/a", {"a.safetensors": GeneratedContent(9 * MIB, 1)})
    hub.add_repo("org/b", {"b.safetensors": GeneratedContent(9 * MIB, 2)})
    hub.fault("a.safetensors", Status(404, times=None))
    bad = fetching.in_background("a", "hf://org/a")
    good = fetching.in_background("b", "hf://org/b")
    assert fetching.store.verify(good.result()) == []
    assert bad.ended(10)
    assert "is not there" in str(bad.error)


@pytest.mark.parametrize("size", [MIB, 20 * MIB])
def test_content_that_a_bad_origin_holds_back_is_had_from_a_good_one(
    hub: HubServer, make_fetching: MakeFetching, size: int
) -> None:
    fetching = make_fetching(TransferSettings(first_delay=0.05, most_delay=60.0, read_timeout=1.0))
    content = GeneratedContent(size, 5)
    hub.add_repo("org/bad", {"bad.safetensors": content})
    hub.add_repo("org/good", {"good.safetensors": content})
    hub.fault("bad.safetensors", Stall(after=MIB // 2, times=None))
    cancel = Cancel()
    bad = fetching.in_background("bad", "hf://org/bad", cancel=cancel)
    assert hub.wait_until(lambda requests: any(r.server == "cdn" for r in requests))
    good = fetching.in_background("good", "hf://org/good")
    assert fetching.store.verify(good.result(20.0)) == []
    # With the content there, the bad one has nothing left to ask for.
    assert fetching.store.verify(bad.result(70.0)) == []


def test_who_is_told_that_content_was_let_go_of_may_ask_the_engine_for_more(
    hub: HubServer, make_fetching: MakeFetching
) -> None:
    fetching = make_fetching(TransferSettings(first_delay=0.05, most_delay=60.0, read_timeout=1.0))
    content = GeneratedContent(20 * MIB, 5)
    hub.add_repo("org/bad", {"bad.safetensors": content})
    hub.add_repo("org/good", {"good.safetensors": content})
    hub.add_repo("org/more", {"more.safetensors": b"more"})
    hub.fault("bad.safetensors", Stall(after=3 * MIB // 2, times=None))
    came: list[bool] = []

    def ask(event: Event) -> None:
        if isinstance(event, BytesLeft):
            came.append(fetching.in_background("more", "hf://org/more").ended(20.0))

    fetching.on_event = ask
    cancel = Cancel()
    fetching.in_background("bad", "hf://org/bad", cancel=cancel)
    assert hub.wait_until(lambda requests: any(r.server == "cdn" for r in requests))
    good = fetching.in_background("good", "hf://org/good")
    assert fetching.store.verify(good.result()) == []
    cancel.set()
    assert came
    assert all(came)


def test_a_silent_connection_doesn_t_hold_up_its_own_job(
    hub: HubServer, make_fetching: MakeFetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelcache.transfer.engine._QUIET_SECONDS", 0.3)
    fetching = make_fetching(replace(QUICK, read_timeout=60.0))
    hub.add_repo("org/a", {"hangs.safetensors": GeneratedContent(3 * MIB, 1), "b.json": b"b"})
    hub.fault("hangs.safetensors", Stall(after=0, times=None))
    hub.fault("b.json", Status(502))
    cancel = Cancel()
    run = fetching.in_background("a", "hf://org/a", cancel=cancel)
    with fetching.news:
        assert fetching.news.wait_for(lambda: fetching.told(FileFinished), 20)
    cancel.set()
    assert run.ended(5)


def test_a_lone_job_replaces_its_silent_connections(
    hub: HubServer, make_fetching: MakeFetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelcache.transfer.engine._QUIET_SECONDS", 0.3)
    fetching = make_fetching(replace(QUICK, connections=2, read_timeout=60.0))
    hub.add_repo("org/a", {"a.safetensors": GeneratedContent(40 * MIB, 1)})
    hub.fault("a.safetensors", Stall(after=0, times=2))
    cancel = Cancel()
    run = fetching.in_background("a", "hf://org/a", cancel=cancel)
    with fetching.news:
        assert fetching.news.wait_for(lambda: fetching.told(BytesReceived), 20)
    cancel.set()
    assert run.ended(5)
