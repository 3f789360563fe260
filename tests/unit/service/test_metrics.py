from __future__ import annotations

import re
from datetime import UTC, datetime

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from modelcache.api import (
    CatalogReport,
    DiskReport,
    ModelReport,
    ModelState,
    NodeCache,
    NodeCacheStatus,
)
from modelcache.api.nodecache import NodeMeta
from modelcache.errors import Reason
from modelcache.metrics import Metrics
from modelcache.transfer.events import (
    BytesDropped,
    BytesReceived,
    FetchEnded,
    HostPaused,
    MirrorFailed,
    Retried,
)
from modelcache.transfer.spending import Times

MODELS = (
    ModelReport(
        name="a",
        state=ModelState.READY,
        source="hf://org/a",
        revision="c" * 40,
        bytes_done=7,
        bytes_total=7,
        finished_at=datetime.fromtimestamp(1000, UTC),
    ),
    ModelReport(name="b", state=ModelState.FAILED, reason=Reason.NOT_FOUND, attempts=2),
)
NODE = NodeCache(
    metadata=NodeMeta(name="n"),
    status=NodeCacheStatus(
        agent_version="1",
        root="/r",
        models=MODELS,
        disk=DiskReport(
            capacity=100, available=50, used=7, reserved=3, free=60, inodes=20, inodes_free=9
        ),
        catalog=CatalogReport(objects=2, problem_count=1),
    ),
)
UNITS = ("_bytes", "_seconds", "_timestamp_seconds")


def exposed(metrics: Metrics) -> dict[str, Metric]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {family.name: family for family in families}


def samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """Values by their labels' values, in the order of the labels' names."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in exposed(metrics).values()
        for sample in family.samples
        if sample.name == name
    }


def test_the_state_of_a_model_is_one_of_all() -> None:
    found = samples(Metrics(lambda: NODE), "modelcache_model_state")
    assert len(found) == 2 * len(ModelState)
    assert [key for key, value in found.items() if value] == [("a", "Ready"), ("b", "Failed")]
    assert set(found.values()) == {0.0, 1.0}


def test_what_is_said_of_models_disk_and_catalog() -> None:
    metrics = Metrics(lambda: NODE)
    assert samples(metrics, "modelcache_model_info") == {("a", "hf", "c" * 40): 1}
    assert samples(metrics, "modelcache_model_done_bytes") == {("a",): 7, ("b",): 0}
    assert samples(metrics, "modelcache_model_size_bytes") == {("a",): 7, ("b",): 0}
    assert samples(metrics, "modelcache_model_failing") == {("b", "NotFound"): 1}
    assert samples(metrics, "modelcache_model_ready_timestamp_seconds") == {("a",): 1000}
    for name, value in (
        ("disk_capacity_bytes", 100),
        ("disk_available_bytes", 50),
        ("disk_used_bytes", 7),
        ("disk_reserved_bytes", 3),
        ("catalog_objects", 2),
        ("catalog_problems", 1),
    ):
        assert samples(metrics, f"modelcache_{name}") == {(): value}


def test_nothing_is_said_of_a_node_that_is_not_known_yet() -> None:
    names = exposed(Metrics(lambda: None))
    assert "modelcache_build" in names or "modelcache_build_info" in names
    assert "modelcache_model_state" not in names
    assert "modelcache_disk_used_bytes" not in names


def test_events_are_counted() -> None:
    metrics = Metrics(lambda: None)
    assert samples(metrics, "modelcache_dropped_bytes_total") == {(): 0}
    metrics(BytesReceived("a", "hf", 5))
    metrics(BytesReceived("b", "hf", 6))
    metrics(BytesReceived("c", "s3", 1))
    metrics(BytesDropped("a", 4))
    metrics(Retried("a", "hf", "f", Reason.RATE_LIMITED, "slow", 1.0))
    metrics(FetchEnded("a", "hf", 2.5, 11, None))
    metrics(FetchEnded("b", "hf", 9.0, 0, Reason.NOT_FOUND))
    assert samples(metrics, "modelcache_received_bytes_total") == {("hf",): 11, ("s3",): 1}
    assert samples(metrics, "modelcache_dropped_bytes_total") == {(): 4}
    assert samples(metrics, "modelcache_transfer_retries_total") == {("hf", "RateLimited"): 1}
    assert samples(metrics, "modelcache_fetches_total") == {("hf", ""): 1, ("hf", "NotFound"): 1}
    assert samples(metrics, "modelcache_fetch_seconds_sum") == {("hf",): 2.5}
    assert samples(metrics, "modelcache_fetch_seconds_count") == {("hf",): 1}


def test_mirrors_pauses_and_where_the_time_went_are_counted() -> None:
    metrics = Metrics(lambda: None)
    metrics(BytesReceived("a", "hf", 5))
    metrics(BytesReceived("a", "hf", 6, "f", "http://mirror"))
    metrics(MirrorFailed("a", "hf", "f", "http://mirror", Reason.NOT_FOUND, "no", 0.0))
    metrics(MirrorFailed("a", "oci", "f", "http://mirror", Reason.CHECKSUM_MISMATCH, "no", 600.0))
    metrics(HostPaused("a", "s3", "s3.example.com", 2.0, 4, 503))
    metrics(FetchEnded("a", "hf", 2.5, 11, None, times=Times(1.0, 2.0, 3.0, 4.0)))
    metrics(FetchEnded("b", "hf", 2.5, 11, Reason.CANCELLED, times=Times(0.5, 0.5, 0.5, 0.5)))
    assert samples(metrics, "modelcache_received_bytes_total") == {("hf",): 11}
    assert samples(metrics, "modelcache_mirrored_bytes_total") == {("hf",): 6}
    assert samples(metrics, "modelcache_mirror_failures_total") == {
        ("hf", "NotFound"): 1,
        ("oci", "ChecksumMismatch"): 1,
    }
    assert samples(metrics, "modelcache_origin_pauses_total") == {("s3", "503"): 1}
    assert samples(metrics, "modelcache_transfer_seconds_total") == {
        ("origin", "hf"): 1.5,
        ("disk", "hf"): 2.5,
        ("hash", "hf"): 3.5,
        ("limit", "hf"): 4.5,
    }


def test_names_are_as_prometheus_wants_them() -> None:
    """https://prometheus.io/docs/practices/naming/"""
    metrics = Metrics(lambda: NODE)
    metrics(HostPaused("a", "hf", "h", 2.0, 4))
    metrics(MirrorFailed("a", "hf", "f", "http://mirror", Reason.NOT_FOUND, "no", 0.0))
    metrics(Retried("a", "hf", "f", Reason.RATE_LIMITED, "slow", 1.0))
    metrics(FetchEnded("a", "hf", 2.5, 11, None))
    metrics(BytesReceived("a", "hf", 5, "f", "http://mirror"))
    families = exposed(metrics)
    assert len(families) >= 21
    for name, family in families.items():
        assert re.fullmatch(r"modelcache(_[a-z]+)+", name)
        assert family.documentation.endswith(".")
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert not sample.name.endswith("_created")
            assert all(re.fullmatch(r"[a-z]+", label) for label in sample.labels)
        if family.type == "histogram":
            assert name.endswith("_seconds")
        if "bytes" in name or "seconds" in name:
            assert name.removesuffix("_total").endswith(UNITS)
