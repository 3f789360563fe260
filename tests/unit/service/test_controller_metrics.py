from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from modelcache.api.cachedmodel import NodeCounts
from modelcache.metrics import ControllerMetrics, ControllerState

STATE = ControllerState(
    leading=True,
    objects={"nodes": 3, "nodecaches": 2},
    failing=["nodecaches"],
    models={"m": NodeCounts(desired=5, ready=3, downloading=1, failed=1)},
)


def samples(metrics: ControllerMetrics) -> dict[tuple[str, ...], float]:
    """Values by the name and the labels' values, in the order of the labels' names."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_what_is_true_at_the_scrape() -> None:
    found = samples(ControllerMetrics(lambda: STATE))
    assert found[("modelcache_controller_leading",)] == 1
    assert found[("modelcache_controller_objects", "nodes")] == 3
    assert found[("modelcache_controller_watch_failing", "nodes")] == 0
    assert found[("modelcache_controller_watch_failing", "nodecaches")] == 1
    states = {"desired": 5, "ready": 3, "downloading": 1, "failed": 1}
    for state, nodes in states.items():
        assert found[("modelcache_model_nodes", "m", state)] == nodes


def test_what_happened_is_counted() -> None:
    metrics = ControllerMetrics(lambda: STATE)
    metrics.wrote("cachedmodels", "ok")
    metrics.wrote("cachedmodels", "ok")
    metrics.wrote("nodes", "conflict")
    metrics.untainted("deadline")
    found = samples(metrics)
    assert found[("modelcache_controller_writes_total", "cachedmodels", "ok")] == 2
    assert found[("modelcache_controller_writes_total", "nodes", "conflict")] == 1
    assert found[("modelcache_controller_startup_taints_removed_total", "deadline")] == 1
