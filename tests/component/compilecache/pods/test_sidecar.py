"""The sidecar beside a real server: what it judges, captures and hands over."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelcache.compilecache.bundles.unpacking import unpack
from modelcache.compilecache.engines.table import table
from modelcache.compilecache.pods import posting, sidecar
from modelcache.compilecache.pods.serving import Serving
from modelcache.compilecache.pods.sidecar import CaptureReport, Sidecar
from modelcache.compilecache.starts.capturing import Patience
from modelcache.compilecache.trees import scanning
from modelcache.errors import Cancelled
from modelcache.transfer import Cancel
from tests.support.archives import statement
from tests.support.compileagent import CompileAgent, refusal
from tests.support.podcaches import NAME, SEED, Pod, SidecarProcess
from tests.support.trees import content

PATIENCE = Patience(quiet=0.2, look=0.02, ready=20.0, settle=5.0)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "_FIRST_SECONDS", 0.01)


def beside(pod: Pod, agent: CompileAgent, /, **changes: Any) -> Sidecar:
    given = Sidecar(
        name=NAME,
        pod="team/engine",
        engine=table(None)["other"],
        cache_dir=pod.cache_dir,
        work=pod.work,
        agent=agent.client,
        serving=Serving.of(pod.engine.health),
        patience=PATIENCE,
        deliver_seconds=20.0,
    )
    return replace(given, **changes)


def staged(pod: Pod) -> list[str]:
    """What is left of archives."""
    return [path.name for path in pod.work.rglob("*") if path.is_file() and "json" not in path.name]


def captured(agent: CompileAgent, folder: Path) -> dict[str, bytes]:
    """The files of the one archive that came, as they are unpacked."""
    ((name, document, body),) = agent.captures
    assert name == NAME
    archive = folder / "archive"
    archive.write_bytes(body)
    unpack(archive, statement(document.archive), folder / "unpacked")
    return content(folder / "unpacked")


def started(agent: CompileAgent) -> tuple[str, str | None, str | None]:
    """Result, reason and digest of the one start that was told."""
    ((name, start),) = agent.starts
    assert (name, start.pod) == (NAME, "team/engine")
    return start.result, start.reason, start.digest


@contextmanager
def running(given: Sidecar) -> Iterator[Callable[[], CaptureReport]]:
    """In a thread, while the block goes on; what is yielded waits for its end."""
    found: list[CaptureReport] = []
    cancel = Cancel()
    thread = threading.Thread(target=lambda: found.append(given.run(cancel)), daemon=True)

    def end() -> CaptureReport:
        thread.join(30)
        assert not thread.is_alive()
        return found[0]

    thread.start()
    yield end
    cancel.set()
    thread.join(10)


def test_a_cold_start_is_captured(pod: Pod, agent: CompileAgent, tmp_path: Path) -> None:
    pod.seeding.run()
    with running(beside(pod, agent)) as end:
        assert pod.engine.asked.wait(10)
        pod.engine.compiles({"graphs/new.py": b"new"})
        pod.engine.serves()
        report = end()
    assert report.outcome == "delivered"
    assert started(agent) == ("Miss", "NothingSeeded", None)
    assert captured(agent, tmp_path) == {"graphs/new.py": b"new"}
    ((_, document, _),) = agent.captures
    assert document.seeded is None
    assert document.evidence.ready
    assert document.evidence.compiled == 1
    assert document.cache_dir == str(pod.cache_dir)
    assert staged(pod) == []


def test_before_it_serves_nothing_is_captured(pod: Pod, agent: CompileAgent) -> None:
    pod.engine.compiles({"half": b"h"})
    report = beside(pod, agent, patience=replace(PATIENCE, ready=0.2)).run(Cancel())
    assert report.outcome == "nothing"
    assert started(agent)[:2] == ("Unknown", "NotReady")
    assert agent.uploaded == 0


def test_a_start_that_only_loaded_is_a_hit_and_not_captured(pod: Pod, agent: CompileAgent) -> None:
    bundle = pod.holds(SEED)
    pod.seeding.run()
    pod.engine.loads()
    pod.engine.serves()
    report = beside(pod, agent).run(Cancel())
    assert report.outcome == "nothing"
    assert started(agent) == ("Hit", None, bundle.digest)
    assert agent.starts[0][1].evidence.loaded == 2
    assert agent.uploaded == 0


def test_a_seed_that_nobody_read_is_no_hit(pod: Pod, agent: CompileAgent) -> None:
    bundle = pod.holds(SEED)
    pod.seeding.run()
    pod.engine.serves()
    report = beside(pod, agent).run(Cancel())
    assert report.outcome == "nothing"
    assert started(agent) == ("Miss", "CacheElsewhere", bundle.digest)


def test_where_reads_are_not_noted_nothing_is_concluded_from_that(
    pod: Pod, agent: CompileAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.holds(SEED)
    pod.seeding.run()
    pod.engine.serves()
    monkeypatch.setattr(sidecar, "files_read", lambda *_: None)
    beside(pod, agent).run(Cancel())
    assert started(agent)[0] == "Hit"


def test_what_has_grown_is_captured_whole(pod: Pod, agent: CompileAgent, tmp_path: Path) -> None:
    bundle = pod.holds(SEED)
    pod.seeding.run()
    pod.engine.loads()
    pod.engine.compiles({"graphs/three": b"3"})
    pod.engine.serves()
    report = beside(pod, agent).run(Cancel())
    assert report.outcome == "delivered"
    assert started(agent) == ("Partial", "Grew", bundle.digest)
    assert captured(agent, tmp_path) == {**SEED, "graphs/three": b"3"}
    assert agent.captures[0][1].seeded == bundle.digest


def test_an_empty_cache_is_never_published(pod: Pod, agent: CompileAgent) -> None:
    pod.engine.serves()
    report = beside(pod, agent, patience=replace(PATIENCE, settle=0.3)).run(Cancel())
    assert report.outcome == "nothing"
    assert "nothing was compiled" in report.why
    assert started(agent)[:2] == ("Unknown", "NothingCompiled")
    assert agent.uploaded == 0


def test_one_that_doesnt_publish_only_tells(pod: Pod, agent: CompileAgent) -> None:
    pod.engine.compiles({"new": b"n"})
    pod.engine.serves()
    report = beside(pod, agent, publish=False).run(Cancel())
    assert report.outcome == "nothing"
    assert started(agent)[0] == "Miss"
    assert agent.uploaded == 0


def test_writing_that_goes_on_is_waited_for(pod: Pod, agent: CompileAgent, tmp_path: Path) -> None:
    pod.engine.compiles({"first": b"1"})
    pod.engine.serves()
    with running(beside(pod, agent, patience=replace(PATIENCE, quiet=1.0))) as end:
        agent.wait_for(lambda: bool(agent.starts))
        # Kernels that are compiled when the first requests come.
        pod.engine.compiles({"late": b"l"})
        end()
    assert captured(agent, tmp_path) == {"first": b"1", "late": b"l"}


def test_an_engine_without_health_is_judged_when_it_is_quiet(pod: Pod, agent: CompileAgent) -> None:
    with running(beside(pod, agent, serving=None)) as end:
        pod.engine.compiles({"new": b"n"})
        report = end()
    assert report.outcome == "delivered"
    assert started(agent)[:2] == ("Miss", "NothingSeeded")


def test_an_engine_without_health_that_loaded_is_a_hit(pod: Pod, agent: CompileAgent) -> None:
    bundle = pod.holds(SEED)
    pod.seeding.run()
    with running(beside(pod, agent, serving=None)) as end:
        pod.engine.loads()
        report = end()
    assert report.outcome == "nothing"
    assert started(agent) == ("Hit", None, bundle.digest)


def test_an_engine_without_health_that_has_not_begun_is_not_judged(
    pod: Pod, agent: CompileAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.holds(SEED)
    pod.seeding.run()
    looked = threading.Semaphore(0)

    def counted(*arguments: Any, **options: Any) -> Any:
        looked.release()
        return scanning.scan(*arguments, **options)

    monkeypatch.setattr(sidecar, "scan", counted)
    given = beside(pod, agent, serving=None, patience=replace(PATIENCE, quiet=0.05))
    with running(given) as end:
        for _ in range(20):
            assert looked.acquire(timeout=10)
        assert not agent.starts
        pod.engine.loads()
        end()
    assert started(agent)[0] == "Hit"


# The agent


def test_an_agent_that_has_no_time_is_asked_again(pod: Pod, agent: CompileAgent) -> None:
    pod.engine.compiles({"new": b"n"})
    pod.engine.serves()
    agent.answers = [
        refusal(503, "Busy"),
        *(refusal(204, ""), refusal(503, "Busy", early=True), refusal(429, "Busy")),
    ]
    agent.answers[1] = replace(agent.answers[1], body={})
    assert beside(pod, agent).run(Cancel()).outcome == "delivered"
    assert len(agent.captures) == len(agent.starts) == 1


def test_a_refusal_is_the_end_of_it(pod: Pod, agent: CompileAgent) -> None:
    pod.engine.compiles({"new": b"n"})
    pod.engine.serves()
    agent.answers = [refusal(403, "NotAPublisher"), refusal(403, "NotAPublisher", early=True)]
    report = beside(pod, agent).run(Cancel())
    assert report.outcome == "refused"
    assert "NotAPublisher" in report.why
    assert agent.uploaded == 0
    assert staged(pod) == []


def test_an_agent_that_comes_late_is_told_all_the_same(
    pod: Pod, agent: CompileAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar, "_TELL_SECONDS", 0.0)
    pod.engine.compiles({"new": b"n"})
    pod.engine.serves()
    agent.answers = [refusal(503, "Busy")]
    report = beside(pod, agent).run(Cancel())
    assert (report.outcome, report.told) == ("delivered", True)
    assert started(agent)[0] == "Miss"


def test_no_agent_is_no_trouble(
    pod: Pod, agent: CompileAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar, "_TELL_SECONDS", 0.1)
    pod.engine.compiles({"new": b"n"})
    pod.engine.serves()
    nobody = replace(agent.client, port=1)
    report = beside(pod, agent, agent=nobody, deliver_seconds=0.1).run(Cancel())
    assert report.outcome == "failed"
    assert staged(pod) == []


def test_one_that_is_started_again_does_nothing_twice(pod: Pod, agent: CompileAgent) -> None:
    pod.engine.compiles({"new": b"n"})
    pod.engine.serves()
    first = beside(pod, agent).run(Cancel())
    assert beside(pod, agent).run(Cancel()) == first
    assert len(agent.captures) == len(agent.starts) == 1


def test_a_cache_that_cant_be_read_is_told_in_the_log(pod: Pod, agent: CompileAgent) -> None:
    pod.cache_dir.rmdir()
    pod.engine.serves()
    report = beside(pod, agent, patience=replace(PATIENCE, settle=0.1)).run(Cancel())
    assert (report.told, report.outcome) == (True, "nothing")
    assert not agent.captures


# As a process


def test_it_stays_as_little_and_ends_when_it_is_told_to(pod: Pod, agent: CompileAgent) -> None:
    pod.engine.compiles({"new": b"n"})
    pod.engine.serves()
    with SidecarProcess(pod, agent.port, agent.token_file, "--stay") as process:
        process.wait_for_event("capture.delivered")
        status = Path(f"/proc/{process.process.pid}")
        waits = threading.Event()
        for _ in range(500):
            if b"sigwait" in (status / "cmdline").read_bytes():
                break
            waits.wait(0.02)
        else:
            raise AssertionError("it is what it was")
        resident = int((status / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        assert resident < 20 << 20
        assert process.terminate() == 0


def test_it_ends_by_itself(pod: Pod, agent: CompileAgent) -> None:
    pod.engine.compiles({"new": b"n"})
    pod.engine.serves()
    with SidecarProcess(pod, agent.port, agent.token_file) as process:
        assert process.process.wait(60) == 0
    assert len(agent.captures) == 1


@pytest.mark.parametrize("event", ["engine.awaited", "start.judged", "capture.waiting"])
def test_one_that_is_stopped_leaves_nothing_half_made(
    pod: Pod, agent: CompileAgent, event: str
) -> None:
    pod.engine.compiles({"new": b"n"})
    if event != "engine.awaited":
        pod.engine.serves()
    flags = ["--quiet", "1h"]
    with SidecarProcess(pod, agent.port, agent.token_file, "--stay", *flags) as process:
        process.wait_for_event(event)
        assert process.terminate() == 0
    assert not agent.captures
    assert staged(pod) == []


def test_one_that_is_stopped_while_it_hands_over(pod: Pod, agent: CompileAgent) -> None:
    pod.engine.compiles({"new": b"n"})
    pod.engine.serves()
    agent.hangs_after = 1
    with SidecarProcess(pod, agent.port, agent.token_file, "--stay") as process:
        process.wait_for_event("capture.captured")
        agent.wait_for(lambda: agent.requests == 2)
        assert process.terminate() == 0
    assert not agent.captures
    assert staged(pod) == []


def test_what_a_killed_one_left_the_next_one_takes_away(
    pod: Pod, agent: CompileAgent, tmp_path: Path
) -> None:
    pod.engine.compiles({"new": b"n"})
    pod.engine.serves()
    agent.hangs_after = 1
    with SidecarProcess(pod, agent.port, agent.token_file) as process:
        agent.wait_for(lambda: agent.requests == 2)
        process.kill()
    assert not agent.captures
    assert staged(pod)
    assert len(agent.starts) == 1
    agent.hangs_after = None
    assert beside(pod, agent).run(Cancel()).outcome == "delivered"
    assert captured(agent, tmp_path) == {"new": b"n"}
    # It was told of before.
    assert len(agent.starts) == 1
    assert staged(pod) == []


def test_a_cancelled_one_says_so(pod: Pod, agent: CompileAgent) -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(Cancelled):
        beside(pod, agent).run(cancel)
