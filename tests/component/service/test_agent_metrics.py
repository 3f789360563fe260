"""The agent's metrics move as things happen: a real agent, a real Hub, a real disk."""

from __future__ import annotations

import os
import time
from pathlib import Path

from modelcache.metrics.contract import Program
from modelcache.planning.evicting import Rule
from tests.support.agent import AgentProcess, write_catalog
from tests.support.cluster.waiting import eventually
from tests.support.expositions import Values, check
from tests.support.hub import GeneratedContent, HubServer, Status

MIB = 1 << 20
TASKS = ("catalog", "reconcile", "report", "residency", "use", "disk", "scrub", "prove", "sweep")


def scraped(agent: AgentProcess) -> Values:
    """What it tells, once it has looked at its disk: within a second."""
    exposition = eventually(
        lambda: agent.get("/metrics"),
        lambda text: "modelcache_disk_used_bytes " in text,
        timeout=20,
    )
    return check(exposition, Program.AGENT)


def test_a_fetch_a_failure_and_a_restart(tmp_path: Path, hub: HubServer) -> None:
    began = time.time()
    hub.add_repo("org/a", {"w.safetensors": GeneratedContent(3 * MIB, seed=1)})
    hub.fault("w.safetensors", Status(429, retry_after=1))
    models = ({"name": "a", "uri": "hf://org/a"}, {"name": "b", "uri": "hf://org/none"})
    catalog = write_catalog(tmp_path / "catalog.yaml", *models)
    env = {"HF_ENDPOINT": hub.url}
    root = tmp_path / "root"
    with AgentProcess(root, catalog, env=env) as agent:
        agent.wait_ready("a")
        agent.wait_failed("b")
        found = scraped(agent)
        ended = time.time()
        # What others write to this disk meanwhile may be gigabytes.
        eventually(
            lambda: (scraped(agent)["modelcache_disk_free_bytes",], os.statvfs(root)),
            lambda both: (
                abs(both[0] - both[1].f_bavail * both[1].f_frsize)
                < 0.05 * both[1].f_blocks * both[1].f_frsize
            ),
            what="the free bytes",
        )
        assert agent.terminate() == 0
    name = "modelcache_model_"
    assert [found[f"{name}wanted", model] for model in "ab"] == [1, 1]
    since = found[f"{name}wanted_timestamp_seconds", "a"]
    assert int(began) <= since <= ended
    assert (f"{name}missing_timestamp_seconds", "a") not in found
    assert int(began) <= found[f"{name}missing_timestamp_seconds", "b"] <= ended
    assert (found[f"{name}failed_attempts", "a"], found[f"{name}failed_attempts", "b"]) == (0, 1)
    assert found["modelcache_time_to_ready_seconds_count", "hf"] == 1
    assert 1 <= found["modelcache_time_to_ready_seconds_sum", "hf"] <= ended - began + 1
    assert found["modelcache_verification_seconds_count", "hf"] == 1
    assert 0 < found["modelcache_verification_seconds_sum", "hf"] < ended - began
    last = found["modelcache_fetch_last_success_timestamp_seconds", "hf"]
    assert began <= last <= ended
    assert found["modelcache_origin_pauses_total", "hf", "429"] == 1
    assert found["modelcache_origin_pauses_total", "hf", "503"] == 0
    assert found["modelcache_reconcile_seconds_count",] >= 3
    assert began <= found["modelcache_reconcile_last_success_timestamp_seconds",] <= ended
    assert 0 <= found["modelcache_reconcile_lag_seconds",] < ended - began
    assert all(found["modelcache_task_failures_total", task] == 0 for task in TASKS)
    assert all(found["modelcache_task_hung", task] == 0 for task in TASKS)
    assert found["modelcache_catalog_unreadable",] == 0
    disk = os.statvfs(root)
    assert found["modelcache_disk_capacity_bytes",] == disk.f_blocks * disk.f_frsize
    assert found.get(("modelcache_disk_inodes",), 0) == disk.f_files
    assert (f"{name}uses_total", "a") in found

    catalog.write_text("{")
    with AgentProcess(root, catalog, env=env) as agent:
        # Beside much else it takes as long as that until it has begun.
        agent.wait_for_event("catalog.problem")
        eventually(
            lambda: scraped(agent).get(("modelcache_catalog_unreadable",)), (1.0).__eq__, timeout=20
        )
        write_catalog(catalog, *models)
        again = eventually(
            lambda: scraped(agent),
            lambda values: values[f"{name}wanted_timestamp_seconds", "a"] == since,
            timeout=20,
            what="what the agent before knew",
        )
    assert again["modelcache_fetch_last_success_timestamp_seconds", "hf"] == last
    assert again.get(("modelcache_time_to_ready_seconds_count", "hf"), 0) == 0, "it was there"


def test_an_eviction_that_was_regretted(tmp_path: Path, hub: HubServer) -> None:
    for each in ("low", "high"):
        hub.add_repo(f"org/{each}", {"w.safetensors": GeneratedContent(6 * MIB, seed=len(each))})
    low = {"name": "low", "uri": "hf://org/low", "priority": 1}
    high = {"name": "high", "uri": "hf://org/high", "priority": 5}
    catalog = write_catalog(tmp_path / "catalog.yaml", low)
    flags = ("--capacity", "10Mi", "--keep-free", "0")
    with AgentProcess(tmp_path / "root", catalog, *flags, env={"HF_ENDPOINT": hub.url}) as agent:
        agent.wait_ready("low")
        wanted = scraped(agent)["modelcache_model_wanted_timestamp_seconds", "low"]
        # Both moments are told in whole seconds, and all of this may be over in one.
        eventually(lambda: time.time() >= wanted + 1, what="another second")
        write_catalog(catalog, low, high)
        agent.wait_ready("high")
        found = scraped(agent)
        assert found["modelcache_evictions_total", "LowerPriority"] == 1
        regrets = [found["modelcache_evictions_regretted_total", rule.value] for rule in Rule]
        assert not any(regrets)
        missing = found["modelcache_model_missing_timestamp_seconds", "low"]
        assert missing > wanted == found["modelcache_model_wanted_timestamp_seconds", "low"]
        assert agent.terminate() == 0
    flags = ("--capacity", "20Mi", "--keep-free", "0")
    with AgentProcess(tmp_path / "root", catalog, *flags, env={"HF_ENDPOINT": hub.url}) as agent:
        agent.wait_for_event("eviction.regretted", model="low", rule="LowerPriority")
        found = scraped(agent)
        assert found["modelcache_evictions_regretted_total", "LowerPriority"] == 1
        assert agent.terminate() == 0
