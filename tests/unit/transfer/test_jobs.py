"""Which file, and which part of it, comes next."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from modelcache.origins.protocol import HttpLocation, LocalLocation, RemoteFile
from modelcache.store import Ingest
from modelcache.store.durable import Durable
from modelcache.transfer import Cancel
from modelcache.transfer.buffers import Buffers
from modelcache.transfer.events import ignore
from modelcache.transfer.filefetch import FileFetch
from modelcache.transfer.jobs import FetchRequest, FileTask, Job, distinct
from modelcache.transfer.tuning import TransferSettings
from modelcache.transfer.ways import Way, Ways

MIB = 1024 * 1024
WAYS = Ways(TransferSettings())


def remote(path: str, size: int, sha256: str | None = None) -> RemoteFile:
    return RemoteFile(path, path, size, f"identity:{path}", sha256=sha256)


def job(*files: RemoteFile, priority: int = 0, sequence: int = 0) -> Job:
    nothing = cast(Any, None)
    request = FetchRequest(
        model="m",
        scheme="hf",
        origin=cast(Any, SimpleNamespace()),
        files=files,
        ingest=nothing,
        blob=nothing,
        priority=priority,
        cancel=Cancel(),
        listener=ignore,
        find=nothing,
        on_allocated=nothing,
        on_verified=nothing,
        on_file=nothing,
    )
    return Job(request, sequence)


def opened(task: FileTask, folder: Path) -> None:
    """Have a task's file open, as a worker does."""
    (folder / "scratch").mkdir(exist_ok=True)
    ingest = Ingest(folder, Durable(folder / "scratch"), locks_reliable=True)
    location = LocalLocation("/source", (), task.remote.size, 0)
    partial = ingest.claim(task.remote.path, task.remote.size)
    task.fetch = FileFetch(task.remote, location, partial, Buffers(64), range_bytes=8 * MIB)


def test_jobs_are_served_by_priority_then_size_then_turn() -> None:
    big, small, high, late = (
        job(remote("a", 9)),
        job(remote("b", 1), sequence=1),
        job(remote("c", 99), priority=5, sequence=2),
        job(remote("d", 1), sequence=3),
    )
    assert sorted([late, big, small, high], key=lambda j: j.order) == [high, small, late, big]


def test_each_connection_has_a_file_of_its_own_as_long_as_there_are_files(tmp_path: Path) -> None:
    files = job(remote("a", 40 * MIB), remote("b", 30 * MIB))
    first = files.next_unit(0.0, 8, WAYS)
    assert first is not None
    assert first.wanted is None
    opened(first.task, tmp_path)
    own = files.next_unit(0.0, 8, WAYS)
    assert own is not None
    assert own.task is first.task
    assert own.wanted is not None
    other = files.next_unit(0.0, 8, WAYS)
    assert other is not None
    assert other.task is not first.task
    # Both are open or being opened: the next helps with what is open.
    helper = files.next_unit(0.0, 8, WAYS)
    assert helper is not None
    assert helper.task is first.task
    first.task.fetch.close()  # type: ignore[union-attr]


def test_where_a_location_has_expired_one_asks_for_another(tmp_path: Path) -> None:
    files, ways = job(remote("a", 40 * MIB)), Ways(TransferSettings())
    files.request.origin.host = "origin.example"  # type: ignore[attr-defined]
    unit = files.next_unit(0.0, 8, ways)
    assert unit is not None
    opened(unit.task, tmp_path)
    fetch = unit.task.fetch
    assert fetch is not None
    fetch.location = None
    ways.hosts.slow_down("origin.example", 0.0, 0.0, 10.0)
    assert files.next_unit(9.0, 8, ways) is None, "its host is left alone"
    asking = files.next_unit(10.0, 8, ways)
    assert asking is not None
    assert (asking.fetch, asking.wanted, asking.way.host) == (fetch, None, "origin.example")
    assert not files.next_unit(10.0, 8, ways), "one is enough"
    fetch.location = HttpLocation("https://bytes.example/a")
    fetching = files.next_unit(10.0, 8, ways)
    assert fetching is not None
    assert (fetching.wanted is None, fetching.way.host) == (False, "bytes.example")
    fetch.close()


def test_only_who_was_asked_where_a_file_is_has_answered_well() -> None:
    ways = Ways(TransferSettings())
    way = Way("o.example")
    ways.hosts.slow_down(way.host, 0.0, 0.0, None)
    elsewhere, clock = HttpLocation("https://bytes.example/a"), count(10.0, 10.0)

    def told(location: HttpLocation | LocalLocation) -> bool:
        before = ways.hosts.allowed(way.host)
        now = next(clock)
        ways.located(way, location, now, now)
        return ways.hosts.allowed(way.host) > before

    ways.hosts.began(way.host)
    assert told(elsewhere)
    assert not told(HttpLocation("https://o.example/a")), "that may be known without asking"
    assert not told(replace(elsewhere, checksums_of=lambda _: {})), "only its bytes will tell"
    assert not told(LocalLocation("/source", (), 1, 0))


def test_a_file_that_waits_for_its_next_try_is_passed_over() -> None:
    files = job(remote("a", 10), remote("b", 5))
    first = files.next_unit(0.0, 8, WAYS)
    assert first is not None
    files.reopen(first.task, not_before=50.0)
    assert files.next_time(10.0) == 40.0
    second = files.next_unit(10.0, 8, WAYS)
    assert second is not None
    assert second.task.remote.path == "b"
    assert files.next_unit(10.0, 8, WAYS) is None
    again = files.next_unit(50.0, 8, WAYS)
    assert again is not None
    assert again.task is first.task


def test_not_more_files_are_open_than_allowed() -> None:
    files = job(*(remote(str(n), 10) for n in range(5)))
    assert [files.next_unit(0.0, 2, WAYS) is not None for _ in range(3)] == [True, True, False]


def test_the_same_content_stands_together() -> None:
    digest = "a" * 64
    grouped = distinct([remote("x", 1, digest), remote("y", 1, digest), remote("z", 1)])
    assert [[file.path for file in group] for group in grouped.values()] == [["x", "y"], ["z"]]
