"""Traces of a real agent, sent to a collector on loopback."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import structlog

from modelcache.service.tracing import open_traces
from modelcache.transfer.events import FetchEnded, FetchStarted
from tests.support.agent import AgentProcess, modelcache, write_catalog
from tests.support.collector import Collector, HangingCollector, Received
from tests.support.hub import GeneratedContent, HubServer, Status

MIB = 1 << 20
TOKEN = "hf_" + "a" * 34


def traced(
    tmp_path: Path, hub: HubServer, collector: Collector, *models: dict[str, Any], wait: str
) -> list[Received]:
    """The spans of an agent that has these models, until `wait` is ready or failed."""
    env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=us"}
    catalog = write_catalog(tmp_path / "catalog.yaml", *models)
    flags = ("--otlp-endpoint", collector.url, "--node-name", "node-1")
    with AgentProcess(tmp_path / "root", catalog, *flags, env=env) as running:
        running.wait_for(
            lambda event: (
                event["event"] in ("model.ready", "model.failed") and event["model"] == wait
            )
        )
        assert running.terminate() == 0
    return collector.spans


def named(spans: list[Received], name: str) -> Received:
    (found,) = (span for span in spans if span.name == name)
    return found


def test_a_fetch_is_a_trace_with_its_steps(tmp_path: Path, hub: HubServer) -> None:
    commit = hub.add_repo("org/a", {"w": GeneratedContent(3 * MIB, seed=1), "config.json": b"{}"})
    with Collector() as collector:
        spans = traced(tmp_path, hub, collector, {"name": "a", "uri": "hf://org/a"}, wait="a")
    resolve, fetch = named(spans, "resolve"), named(spans, "fetch")
    assert resolve.attributes == {
        "modelcache.model": "a",
        "modelcache.origin": "hf",
        "modelcache.revision": commit,
    }
    assert fetch.links == (resolve.id,)
    assert fetch.attributes["modelcache.revision"] == commit
    assert fetch.attributes["modelcache.size_bytes"] == 3 * MIB + 2
    assert fetch.attributes["modelcache.received_bytes"] == 3 * MIB + 2
    assert fetch.attributes["modelcache.hash_seconds"] > 0
    steps = [span for span in spans if span.parent == fetch.id]
    assert [step.name for step in steps] == ["transfer", "verify", "commit"]
    assert {step.trace for step in steps} == {fetch.trace} != {resolve.trace}
    # They follow each other, and are the whole of the fetch.
    assert steps[0].start == fetch.start
    for step, following in pairwise(steps):
        assert step.start <= step.end == following.start
    assert steps[-1].end == fetch.end
    assert not any(span.failed for span in spans)
    assert fetch.resource["service.name"] == "modelcache-agent"
    assert fetch.resource["k8s.node.name"] == "node-1"
    assert collector.headers[0]["x-tenant"] == "us"
    assert TOKEN.encode() not in collector.raw


def test_what_failed_says_why(tmp_path: Path, hub: HubServer) -> None:
    with Collector() as collector:
        spans = traced(tmp_path, hub, collector, {"name": "a", "uri": "hf://org/a"}, wait="a")
    (resolve,) = spans
    assert (resolve.name, resolve.failed) == ("resolve", True)
    assert resolve.attributes["error.type"] == "NotFound"


def test_a_fetch_that_failed_failed_in_one_of_its_steps(tmp_path: Path, hub: HubServer) -> None:
    hub.add_repo("org/a", {"w": b"1"})
    hub.fault("*", Status(403, times=None))
    with Collector() as collector:
        spans = traced(tmp_path, hub, collector, {"name": "a", "uri": "hf://org/a"}, wait="a")
    assert not named(spans, "resolve").failed
    for name in ("fetch", "transfer"):
        assert named(spans, name).failed
        assert named(spans, name).attributes["error.type"] == "AuthFailed"
    assert not {"verify", "commit"} & {span.name for span in spans}


def test_what_was_tried_again_is_an_event(tmp_path: Path, hub: HubServer) -> None:
    hub.add_repo("org/a", {"w": GeneratedContent(MIB, seed=1)})
    hub.fault("*", Status(503, times=1))
    with Collector() as collector:
        spans = traced(tmp_path, hub, collector, {"name": "a", "uri": "hf://org/a"}, wait="a")
    events = dict(named(spans, "transfer").events)
    assert events["retry"]["modelcache.reason"] == "OriginUnavailable"


@pytest.mark.parametrize(("code", "reason"), [(429, "RateLimited"), (503, "OriginUnavailable")])
def test_a_pause_says_why(tmp_path: Path, hub: HubServer, code: int, reason: str) -> None:
    hub.add_repo("org/a", {"w": GeneratedContent(MIB, seed=1)})
    hub.fault("*", Status(code, retry_after=1, times=1))
    with Collector() as collector:
        spans = traced(tmp_path, hub, collector, {"name": "a", "uri": "hf://org/a"}, wait="a")
    paused = dict(named(spans, "transfer").events)["host paused"]
    assert paused["modelcache.reason"] == reason
    assert paused["modelcache.delay_seconds"] > 0


@pytest.mark.parametrize("drips", [False, True], ids=["silent", "dripping"])
@pytest.mark.parametrize("during", [False, True], ids=["at-the-end", "at-work-already"])
def test_a_collector_that_hangs_is_not_waited_for(*, drips: bool, during: bool) -> None:
    with HangingCollector(drips=drips) as collector, structlog.testing.capture_logs() as logs:
        traces = open_traces(collector.url, "n")
        # The SDK sends at once when it has so many; else every five seconds, and at the end.
        for number in range(600 if during else 1):
            traces(FetchStarted(f"m-{number}", "r", "hf", files=1, size=1, held=0))
            traces(FetchEnded(f"m-{number}", "hf", 1.0, 1, None))
        if during:
            assert collector.asked.wait(10)
        began = time.monotonic()
        traces.close()
        assert time.monotonic() - began < 4.5
        assert collector.asked.is_set()
    assert [each["event"] for each in logs] == ["traces.not_sent"]


def test_an_agent_ends_in_time_beside_a_collector_that_hangs(
    tmp_path: Path, hub: HubServer
) -> None:
    hub.add_repo("org/a", {"w": b"1"})
    catalog = write_catalog(tmp_path / "catalog.yaml", {"name": "a", "uri": "hf://org/a"})
    with HangingCollector(drips=True) as collector:
        flags = ("--otlp-endpoint", collector.url)
        env = {"HF_ENDPOINT": hub.url}
        with AgentProcess(tmp_path / "root", catalog, *flags, env=env) as running:
            running.wait_ready("a")
            began = time.monotonic()
            assert running.terminate() == 0
            assert time.monotonic() - began < 15
            assert "traces.not_sent" in [event["event"] for event in running.events]


def test_a_collector_that_is_away_holds_nothing_up(tmp_path: Path, hub: HubServer) -> None:
    hub.add_repo("org/a", {"w": b"1"})
    catalog = write_catalog(tmp_path / "catalog.yaml", {"name": "a", "uri": "hf://org/a"})
    env = {"HF_ENDPOINT": hub.url}
    flags = ("--otlp-endpoint", "http://127.0.0.1:9")
    with AgentProcess(tmp_path / "root", catalog, *flags, env=env) as running:
        running.wait_ready("a")
        assert running.terminate() == 0


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("collector:4318", "no URL such as http://collector:4318"),
        ("ftp://collector", "no URL such as"),
        ("http://me:secret@collector", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("http://collector/?a=b", "has no query"),
    ],
)
def test_what_is_no_collectors_url_is_said(tmp_path: Path, endpoint: str, said: str) -> None:
    ended = modelcache("agent", "--root", tmp_path / "root", "--otlp-endpoint", endpoint)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "secret" not in ended.stderr


def test_without_the_setting_nothing_of_it_is_imported() -> None:
    code = (
        "import sys, modelcache.service.agent;"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
