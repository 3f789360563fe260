"""Thousands of names come and go, and nothing of them is kept: neither in memory nor in metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry

from modelcache.api import ModelReport, ModelState, NodeCache
from modelcache.api.nodecache import CompileReport, CompileState
from modelcache.compilecache.engines.evidence import Evidence
from modelcache.compilecache.pods.protocol import StartDocument
from modelcache.errors import Reason
from modelcache.metrics import CompileMetrics, Metrics
from modelcache.planning.describing import Paths
from modelcache.planning.using import User, Uses
from modelcache.service.fetchhistory import Beginnings, FetchHistory
from modelcache.service.inventory import Inventory
from modelcache.service.progress import ActiveFetches
from modelcache.service.telling import Telling
from modelcache.service.tracing import Traces
from modelcache.store import Store
from modelcache.transfer.events import (
    BytesReceived,
    Event,
    FetchEnded,
    FetchStarted,
    Resolved,
    Resolving,
)
from tests.support.growth import grown
from tests.unit.planning.samples import manifest, model
from tests.unit.service.test_metrics import NODE

NAMES, CACHES = 3000, 240
LITTLE = 64 * 1024
"""Bytes, for all names together: an entry of a dictionary for each would be hundreds of KiB."""
HOUR = 3600.0


def fetch(name: str, reason: Reason | None = None) -> list[Event]:
    return [
        Resolving(name, "hf"),
        Resolved(name, "hf", 1.0, f"revision of {name}"),
        FetchStarted(name, f"revision of {name}", "hf", files=1, size=7, held=0),
        BytesReceived(name, "hf", 7),
        FetchEnded(name, "hf", 1.0, 7, reason),
    ]


@pytest.mark.parametrize("reason", [None, Reason.NOT_FOUND])
def test_what_ended_is_not_under_way(reason: Reason | None) -> None:
    fetches = ActiveFetches()

    def come_and_go(number: int) -> None:
        for event in fetch(f"model-{number}", reason):
            fetches(event)

    assert grown(come_and_go, first=100, then=NAMES) < LITTLE
    assert fetches.all() == {}


class Catalog:
    """Tells of models as an agent does, one after the other; each goes when the next one comes."""

    def __init__(self, forget: Callable[[Collection[str]], None]) -> None:
        self._telling = Telling(
            ActiveFetches(),
            lambda name: Paths(f"/{name}", f"/hub/{name}"),
            on_gone=forget,
        )

    def has(self, name: str) -> None:
        self._telling.update({name: model(name)}, {}, {}, {})


def test_tries_of_models_that_are_gone(tmp_path: Path) -> None:
    history = FetchHistory(Store(tmp_path / "root"), lambda _: None)
    catalog = Catalog(history.forget)

    def come_and_go(number: int) -> None:
        catalog.has(f"model-{number}")
        for event in fetch(f"model-{number}", Reason.NOT_FOUND):
            history(event)

    assert grown(come_and_go, first=100, then=NAMES) < LITTLE


def test_resolutions_that_no_fetch_followed() -> None:
    traces = Traces(TracerProvider(shutdown_on_exit=False))
    catalog = Catalog(traces.forget)

    def come_and_go(number: int) -> None:
        resolving, resolved, *_ = fetch(f"model-{number}")
        catalog.has(f"model-{number}")
        traces(resolving)
        if number % 2:  # of the others the library's call hangs until the model is gone
            traces(resolved)
        else:
            catalog.has("another")
            traces(resolved)

    assert grown(come_and_go, first=100, then=NAMES) < LITTLE


def test_places_of_models_that_are_gone(tmp_path: Path) -> None:
    inventory = Inventory(Store(tmp_path / "root"))

    def come_and_go(number: int) -> None:
        inventory.read()
        inventory.paths(f"model-{number}")

    assert grown(come_and_go, first=100, then=NAMES) < LITTLE


def test_users_while_it_is_unknown_who_else_there_is() -> None:
    now, told = 0.0, list[str]()
    shown = {"m": manifest("m")}
    beginnings = Beginnings(lambda each: told.append(each.model), lambda: now)
    beginnings.look(Uses(), shown)

    def come_and_go(number: int) -> None:
        nonlocal now
        now += 60.0
        pod = User("pod", f"team/engine-{number}", "m")
        beginnings.look(Uses((pod,), "the API server is away"), shown)
        told.clear()

    assert grown(come_and_go, first=100, then=NAMES) < LITTLE


# Counters


def test_counters_of_models() -> None:
    now, here = 0.0, "model-0"

    def node() -> NodeCache:
        assert NODE.status is not None
        models = (ModelReport(name=here, state=ModelState.READY),)
        return NODE.model_copy(update={"status": NODE.status.model_copy(update={"models": models})})

    metrics = Metrics(node, lambda: now)

    def come_and_go(number: int) -> None:
        nonlocal now, here
        now += 60.0
        here = f"model-{number}"
        metrics.used(manifest(here), 1.0)  # whether or not anybody scrapes

    assert grown(come_and_go, first=100, then=NAMES) < LITTLE
    found = metrics.exposition().decode()
    assert found.count("modelcache_model_uses_total{") == 60
    assert found.count("modelcache_model_state{") == len(ModelState)
    # The last that it counted is told of, so that `increase()` sees it.
    assert f'modelcache_model_uses_total{{model="model-{100 + NAMES - 60}"}} 1.0' in found


START = StartDocument(
    pod="team/engine", result="Hit", compile_milliseconds=1000, evidence=Evidence(source="files")
)


def test_counters_of_compile_caches() -> None:
    now, here = 0.0, "cache-0"

    def reports() -> tuple[CompileReport, ...]:
        return (CompileReport(name=here, state=CompileState.READY),)

    registry = CollectorRegistry()
    metrics = CompileMetrics(registry, reports, lambda: now)

    def series() -> set[str]:
        return {
            sample.labels["compile_cache"]
            for family in registry.collect()
            for sample in family.samples
            if "compile_cache" in sample.labels
        }

    def come_and_go(number: int) -> None:
        nonlocal now, here
        now += HOUR / 10
        here = f"cache-{number}"
        if number % 3 == 0:
            assert len(series()) == min(10, number + 1)
        elif number % 3 == 1:
            metrics.started(here, START, cold_seconds=61.0)
        else:
            metrics.received(here, 1)

    assert grown(come_and_go, first=30, then=CACHES) < LITTLE
    first = 30 + CACHES - 10
    assert series() == {f"cache-{first + number}" for number in range(10)}
    # Of one that went almost an hour ago all that was counted is told of.
    name = f"cache-{first + (1 - first) % 3}"
    for counter, value in (("starts", None), ("seconds", 1.0), ("seconds_saved", 60.0)):
        labels = {"compile_cache": name}
        if value is None:
            value = 1.0
            labels |= {"result": "Hit", "reason": ""}
        assert registry.get_sample_value(f"modelcache_compile_{counter}_total", labels) == value
    assert (
        registry.get_sample_value(
            "modelcache_compile_received_bytes_total", {"compile_cache": name}
        )
        == 0.0
    )
    now += 2 * HOUR
    assert series() == {here}
    here = "cache-0"
    name = "modelcache_compile_seconds_total"
    assert series() >= {"cache-0"}
    assert registry.get_sample_value(name, {"compile_cache": "cache-0"}) == 0.0, "from nought"
