from __future__ import annotations

import re
import time
from datetime import UTC, datetime

import pytest
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
from modelcache.metrics import Metrics, ReconcileMetrics, TaskState
from modelcache.planning.evicting import Rule
from modelcache.transfer.events import (
    BytesDropped,
    BytesReceived,
    FetchEnded,
    HostPaused,
    MirrorFailed,
    Retried,
)
from modelcache.transfer.spending import Times
from tests.unit.planning.samples import manifest

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


def test_what_is_said_of_use_and_of_since_when() -> None:
    at = datetime.fromtimestamp(2000, UTC)
    ready = MODELS[0].model_copy(
        update={"resident_bytes": 3, "wanted_since": at, "last_used_at": at, "bytes_total": 6}
    )
    missing = MODELS[1].model_copy(update={"missing_since": at, "wanted": False})
    busy = ready.model_copy(update={"name": "c", "used_by": 2, "last_used_at": None})
    assert NODE.status is not None
    status = NODE.status.model_copy(update={"models": (ready, missing, busy)})
    metrics = Metrics(lambda: NODE.model_copy(update={"status": status}))
    prefix = "modelcache_model_"
    assert samples(metrics, f"{prefix}wanted") == {("a",): 1, ("b",): 0, ("c",): 1}
    assert samples(metrics, f"{prefix}wanted_timestamp_seconds") == {("a",): 2000, ("c",): 2000}
    assert samples(metrics, f"{prefix}missing_timestamp_seconds") == {("b",): 2000}
    assert samples(metrics, f"{prefix}resident_ratio") == {("a",): 0.5, ("c",): 0.5}
    assert samples(metrics, f"{prefix}failed_attempts") == {("a",): 0, ("b",): 2, ("c",): 0}
    assert samples(metrics, f"{prefix}users") == {("a",): 0, ("c",): 2}
    last = samples(metrics, f"{prefix}last_used_timestamp_seconds")
    assert last[("a",)] == 2000
    assert time.time() - last[("c",)] < 5, "it is in use"
    assert samples(metrics, "modelcache_disk_free_bytes") == {(): 60}
    assert samples(metrics, "modelcache_disk_inodes") == {(): 20}
    assert samples(metrics, "modelcache_disk_inodes_free") == {(): 9}


def test_a_file_system_without_a_number_of_inodes_has_none() -> None:
    assert NODE.status is not None
    disk = DiskReport(capacity=100, available=50, used=7, reserved=3)
    status = NODE.status.model_copy(update={"disk": disk})
    metrics = Metrics(lambda: NODE.model_copy(update={"status": status}))
    assert not {"modelcache_disk_inodes", "modelcache_disk_inodes_free"} & {*exposed(metrics)}


def test_uses_and_what_they_spared() -> None:
    metrics = Metrics(lambda: NODE)
    for name in ("uses", "served_bytes", "saved_seconds"):
        found = samples(metrics, f"modelcache_{'model_' * (name == 'uses')}{name}_total")
        assert found == {("a",): 0, ("b",): 0}, "an increase is seen of what was there"
    metrics.used(manifest("a", size=5), 60.0)
    metrics.used(manifest("a", size=5), 0.0)
    metrics.used(manifest("gone", size=5), 1.0)
    gone = ("gone",)
    assert samples(metrics, "modelcache_model_uses_total") == {("a",): 2, ("b",): 0, gone: 1}
    assert samples(metrics, "modelcache_served_bytes_total") == {("a",): 10, ("b",): 0, gone: 5}
    assert samples(metrics, "modelcache_saved_seconds_total") == {("a",): 60, ("b",): 0, gone: 1}


def test_the_counters_of_a_model_that_is_gone_stay_for_an_hour() -> None:
    now, there = 0.0, NODE
    metrics = Metrics(lambda: there, lambda: now)
    metrics.used(manifest("a", size=5), 60.0)
    assert NODE.status is not None
    status = NODE.status.model_copy(update={"models": MODELS[1:]})
    samples(metrics, "modelcache_model_uses_total")
    now, there = 1000.0, NODE.model_copy(update={"status": status})
    uses = "modelcache_model_uses_total"
    assert samples(metrics, uses) == {("a",): 1, ("b",): 0}
    now = 3599.0
    assert samples(metrics, uses) == {("a",): 1, ("b",): 0}, "whoever asks, it is not there anew"
    now = 3600.0
    assert samples(metrics, uses) == {("b",): 0}
    now = 10_000.0
    assert samples(metrics, uses) == {("b",): 0}, "what is there stays for ever"
    there = NODE
    assert samples(metrics, uses) == {("a",): 0, ("b",): 0}, "it begins anew"


def test_pauses_have_their_status() -> None:
    metrics = Metrics(lambda: None)
    for status in (429, 503, 500, None):
        metrics(HostPaused("a", "hf", "h", 2.0, 4, status))
    assert samples(metrics, "modelcache_origin_pauses_total") == {
        ("hf", "429"): 1,
        ("hf", "503"): 1,
        ("hf", "other"): 2,
    }


def test_verification_and_the_last_success_are_of_fetches_that_ended_well() -> None:
    metrics = Metrics(lambda: None)
    metrics(FetchEnded("a", "hf", 2.5, 11, None, times=Times(1.0, 2.0, 0.7, 4.0)))
    metrics(FetchEnded("b", "s3", 2.5, 11, Reason.CANCELLED, times=Times(1.0, 2.0, 0.7, 4.0)))
    assert samples(metrics, "modelcache_verification_seconds_sum") == {("hf",): 0.7}
    (last,) = samples(metrics, "modelcache_fetch_last_success_timestamp_seconds").items()
    assert last[0] == ("hf",)
    assert time.time() - last[1] < 5


def test_the_last_success_is_the_same_after_a_restart() -> None:
    metrics = Metrics(lambda: None)
    metrics(FetchEnded("a", "hf", 2.5, 11, None, at=1000.0))
    found = samples(metrics, "modelcache_fetch_last_success_timestamp_seconds")
    again = Metrics(lambda: None)
    again.remember(MODELS[:1])
    assert samples(again, "modelcache_fetch_last_success_timestamp_seconds") == found
    assert found == {("hf",): 1000}


def test_the_last_success_is_known_after_a_restart() -> None:
    metrics = Metrics(lambda: None)
    later = MODELS[0].model_copy(update={"finished_at": datetime.fromtimestamp(3000, UTC)})
    metrics.remember([later, *MODELS])
    found = samples(metrics, "modelcache_fetch_last_success_timestamp_seconds")
    assert found == {("hf",): 3000}


def test_what_happens_with_an_origin_is_counted_from_nought() -> None:
    metrics = Metrics(lambda: None)
    metrics.origins({"gs"})
    metrics(BytesReceived("a", "gs", 5))
    metrics.origins({"gs", "hf"})
    assert samples(metrics, "modelcache_received_bytes_total") == {("gs",): 5, ("hf",): 0}
    assert samples(metrics, "modelcache_fetch_seconds_count") == {("gs",): 0, ("hf",): 0}
    fetches = samples(metrics, "modelcache_fetches_total")
    assert len(fetches) == 2 * (len(Reason) + 1)
    assert set(fetches.values()) == {0.0}
    assert len(samples(metrics, "modelcache_origin_pauses_total")) == 2 * 3


def test_evictions_are_counted_from_nought() -> None:
    metrics = Metrics(lambda: None)
    metrics.evicted("Unwanted", 7)
    metrics.regretted("Unwanted")
    for name, one in (("evictions", 1), ("evicted_bytes", 7), ("evictions_regretted", 1)):
        found = samples(metrics, f"modelcache_{name}_total")
        assert found == {(rule.value,): 0 for rule in Rule} | {("Unwanted",): one}


def test_the_time_to_ready_is_of_the_models_origin() -> None:
    metrics = Metrics(lambda: None)
    metrics.ready(MODELS[0], 5 * 3600.0)
    found = samples(metrics, "modelcache_time_to_ready_seconds_bucket")
    assert found[("7200.0", "hf")] == found[("14400.0", "hf")] == 0
    assert found[("28800.0", "hf")] == 1
    assert samples(metrics, "modelcache_time_to_ready_seconds_sum") == {("hf",): 18_000}


def test_rounds_of_the_reconciler() -> None:
    metrics, lag, unreadable = Metrics(lambda: None), 7.5, None
    rounds = ReconcileMetrics(metrics.registry, lag=lambda: lag, unreadable=lambda: unreadable)
    name = "modelcache_reconcile_last_success_timestamp_seconds"
    ((_, began),) = samples(metrics, name).items()
    assert time.time() - began < 5, "never nought"
    with pytest.raises(ZeroDivisionError), rounds.round():
        raise ZeroDivisionError
    assert samples(metrics, name) == {(): began}
    with rounds.round():
        pass
    ((_, ended),) = samples(metrics, name).items()
    assert ended > began
    assert samples(metrics, "modelcache_reconcile_seconds_count") == {(): 2}
    assert samples(metrics, "modelcache_reconcile_lag_seconds") == {(): 7.5}
    assert samples(metrics, "modelcache_catalog_unreadable") == {}
    unreadable = True
    assert samples(metrics, "modelcache_catalog_unreadable") == {(): 1}


def test_loops_and_requests() -> None:
    metrics = Metrics(lambda: None)
    metrics.follow(lambda: [TaskState("scrub", 3, hung=False), TaskState("report", 0, hung=True)])
    assert samples(metrics, "modelcache_task_failures_total") == {("scrub",): 3, ("report",): 0}
    assert samples(metrics, "modelcache_task_hung") == {("scrub",): 0, ("report",): 1}
    for code in ("200", "200", "409", "", "799"):
        metrics.answered("nodes", "patch", code)
    metrics.answered("x" * 80, "get", "200")
    assert samples(metrics, "modelcache_api_requests_total") == {
        ("200", "nodes", "patch"): 2,
        ("409", "nodes", "patch"): 1,
        ("", "nodes", "patch"): 1,
        ("other", "nodes", "patch"): 1,
        ("200", "other", "get"): 1,
    }
