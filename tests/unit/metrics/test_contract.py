"""The table of all metrics is what the programs expose, and is as Prometheus wants it."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from prometheus_client import CollectorRegistry

from modelcache.metrics import (
    CompileMetrics,
    ControllerMetrics,
    ControllerState,
    DiskMetrics,
    Metrics,
    ReconcileMetrics,
    ScrubMetrics,
    TunerMetrics,
    WarmerMetrics,
    WarmerState,
    WebhookMetrics,
    WebhookState,
)
from modelcache.metrics.collecting import ProgramMetrics
from modelcache.metrics.contract import (
    FAMILIES,
    CounterFamily,
    Family,
    GaugeFamily,
    HistogramFamily,
    InfoFamily,
    Program,
)
from modelcache.store.sickness import DiskState
from tests.unit.service.test_metrics import NODE

UNITS = ("_bytes", "_seconds", "_ratio")


def followed(metrics: ProgramMetrics) -> CollectorRegistry:
    metrics.follow(lambda: ())
    return metrics.registry


def of_the_agent() -> CollectorRegistry:
    metrics = Metrics(lambda: NODE)
    ScrubMetrics(metrics.registry)
    DiskMetrics(metrics.registry, lambda: DiskState.OK)
    CompileMetrics(metrics.registry, lambda: ())
    ReconcileMetrics(metrics.registry, lag=lambda: 0.0, unreadable=lambda: False)
    return followed(metrics)


def of_the_tuner() -> CollectorRegistry:
    return followed(TunerMetrics(lambda: ()))


def of_the_warmer() -> CollectorRegistry:
    return followed(WarmerMetrics(lambda: WarmerState(1, ())))


def of_the_controller() -> CollectorRegistry:
    return followed(ControllerMetrics(lambda: ControllerState(True, {}, (), {})))


def of_the_webhook() -> CollectorRegistry:
    return followed(WebhookMetrics(lambda: WebhookState(1.0, {}, ())))


REGISTRIES = {
    Program.AGENT: of_the_agent,
    Program.TUNER: of_the_tuner,
    Program.WARMER: of_the_warmer,
    Program.CONTROLLER: of_the_controller,
    Program.WEBHOOK: of_the_webhook,
}


def listed(program: Program) -> set[tuple[str, str, str]]:
    """Name, kind and help of the families that the table gives to a program."""
    return {(each.name, each.kind, each.help) for each in FAMILIES if program in each.programs}


@pytest.mark.parametrize("program", Program)
def test_what_a_program_exposes_is_what_is_listed(program: Program) -> None:
    end = {"counter": "_total", "info": "_info"}
    found = [
        (family.name + end.get(family.type, ""), family.type, family.documentation)
        for family in REGISTRIES[program]().collect()
    ]
    assert {name for name, times in Counter(found).items() if times > 1} == set()
    assert {*found} == listed(program)


def test_each_is_listed_once() -> None:
    names = Counter(name for family in FAMILIES for name in family.exposed)
    assert {name for name, times in names.items() if times > 1} == set()
    assert len(FAMILIES) >= 60


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_are_as_prometheus_wants_them(family: Family) -> None:
    """https://prometheus.io/docs/practices/naming/"""
    assert re.fullmatch(r"modelcache(_[a-z]+)+", family.name)
    assert re.fullmatch(r"[A-Z1].*\.", family.help, re.DOTALL)
    assert isinstance(family, CounterFamily) == family.name.endswith("_total")
    assert isinstance(family, InfoFamily) == family.name.endswith("_info")
    name = family.name.removesuffix("_total").removesuffix("_saved")
    if re.search("bytes|seconds|ratio", name):
        assert name.endswith(UNITS)
    assert not re.search("_(kb|kib|mb|ms|milliseconds|minutes|percent)(_|$)", name)
    if "_timestamp" in name:
        assert isinstance(family, GaugeFamily)
        assert name.endswith("_timestamp_seconds")
    if isinstance(family, HistogramFamily):
        assert name.endswith("_seconds")
        assert list(family.buckets) == sorted({*family.buckets})


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_labels_are_bounded(family: Family) -> None:
    objects = {"model", "compile_cache", "device", "bdi", "task"}
    facts = {"revision", "version"} if isinstance(family, InfoFamily) else set()
    labels = (*family.labels, *(family.facts if isinstance(family, InfoFamily) else ()))
    assert len({label.name for label in labels}) == len(labels)
    for label in labels:
        assert re.fullmatch("[a-z_]+", label.name)
        assert (label.values is None) == (label.name in objects | facts)
        if label.values is not None:
            assert 2 <= len({*label.values}) == len(label.values) <= 70
