"""How statuses are written: by whom, when, and over what, against the real API server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from modelcache.cluster.client import CACHED_MODELS, Client, Object
from modelcache.cluster.tallying import keep_reports
from modelcache.errors import ClusterError
from modelcache.metrics import ControllerMetrics, ControllerState
from modelcache.service.statuswriting import StatusWriter, keep_written, models
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually

KIND = {"apiVersion": "modelcache.dev/v1alpha1", "kind": "CachedModel"}
URI = "hf://org/name"
READY = {"state": "Ready", "revision": "a" * 40, "bytesTotal": 100}
FAILED = {"state": "Failed", "attempts": 1, "reason": "NotFound", "message": "gone"}


class Seen:
    """A mirror that shows what the test sets. It also takes the part of the events' recorder."""

    def __init__(self, **objects: Object) -> None:
        self.objects: dict[str, Object] = objects
        self.listed_at: float | None = 0.0
        self.told: list[tuple[str, str, str]] = []

    def record(
        self,
        regarding: Object,
        type_: str,
        reason: str,
        action: str,
        note: str,
        related: Object | None = None,
    ) -> None:
        """Note an event."""
        self.told.append((regarding["name"], type_, reason))


class Bench:
    """A writer whose view, clock and lead are set by the test."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.models, self.caches = Seen(), Seen()
        self.nodes = Seen(p1={"labels": {}})
        self.now = time.monotonic()
        self.rounds_to_lead = 10**9
        state = ControllerState(leading=True, objects={}, failing=(), models={})
        self.metrics = ControllerMetrics(lambda: state)
        self.writer = StatusWriter(
            models(),
            client=client,
            things=self.models,
            nodes=self.nodes,
            caches=self.caches,
            leading=self._leading,
            events=self.models,
            metrics=self.metrics,
            seconds=3.0,
            clock=lambda: self.now,
        )

    def _leading(self) -> bool:
        self.rounds_to_lead -= 1
        return self.rounds_to_lead >= 0

    def make(self, *names: str) -> None:
        """CachedModels, which the mirror sees."""
        for name in names:
            spec = {"source": {"uri": URI}}
            self.client.create(CACHED_MODELS, {**KIND, "metadata": {"name": name}, "spec": spec})
        self.see(*names)

    def see(self, *names: str) -> None:
        """Bring the mirror to what is."""
        found = {name: keep_written(self.client.get(CACHED_MODELS, name)) for name in names}
        self.models.objects = {**self.models.objects, **found}

    def report(self, said: dict[str, Any], *names: str, node: str = "p1") -> None:
        """What a node's agent says of models."""
        models = [{"name": name, "source": URI, **said} for name in names]
        cache = {"metadata": {"name": node, "uid": node}, "status": {"models": models}}
        self.caches.objects = {**self.caches.objects, node: keep_reports(cache)}

    def look(self, *times: float) -> None:
        """Look at moments, in seconds from now."""
        for seconds in times:
            self.now += seconds
            self.writer.cycle()

    def status(self, name: str) -> dict[str, Any]:
        """As the API server has it."""
        found: dict[str, Any] = self.client.get(CACHED_MODELS, name).get("status", {})
        return found

    def reason(self, name: str) -> str | None:
        """Of the condition."""
        conditions: list[dict[str, str]] = self.status(name).get("conditions") or [{}]
        return conditions[0].get("reason")

    def written(self, result: str) -> float:
        """How many writes had a result."""
        labels = {"resource": "cachedmodels", "result": result}
        name = "modelcache_controller_writes_total"
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def bench(cluster: ControlPlane) -> Iterator[Bench]:
    """A writer with an administrator's rights."""
    client = Client.connect(cluster.kubeconfig)
    yield Bench(client)
    client.close()


def test_what_was_concluded_from_an_older_object_is_refused(bench: Bench) -> None:
    bench.make("m")
    bench.report(READY, "m")
    # Another replica has seen a newer generation, and has said so.
    bench.client.patch(CACHED_MODELS, "m", {"spec": {"priority": 5}})
    newer = {"status": {"observedGeneration": 2, "revision": "newer"}}
    bench.client.patch(CACHED_MODELS, "m", newer, subresource="status")
    bench.look(0.0, 10.0, 10.0)
    assert bench.status("m") == newer["status"]
    # Once: until the mirror tells of another, there is nothing to try.
    assert (bench.written("conflict"), bench.written("ok")) == (1, 0)
    bench.see("m")
    bench.look(10.0)
    assert bench.status("m")["observedGeneration"] == 2
    assert bench.reason("m") == "AllNodesReady"


def test_who_loses_the_lead_stops_at_once(bench: Bench) -> None:
    bench.make("m1", "m2", "m3")
    bench.report(READY, "m1", "m2", "m3")
    bench.rounds_to_lead = 2  # at the beginning of the round, and before its first write
    bench.look(0.0)
    assert bench.written("ok") == 1
    assert bench.reason("m2") is None
    assert bench.writer.counts
    bench.look(10.0)
    assert bench.written("ok") == 1
    assert bench.writer.counts == {}


def test_who_leads_again_takes_nothing_for_granted(bench: Bench) -> None:
    bench.make("m")
    bench.report(READY, "m")
    bench.look(0.0)
    bench.rounds_to_lead = 0
    bench.look(10.0)
    bench.client.patch(CACHED_MODELS, "m", {"status": {"revision": "x"}}, subresource="status")
    bench.see("m")
    bench.rounds_to_lead = 100
    bench.look(1.0)
    assert bench.status("m")["revision"] == "a" * 40


def test_our_own_write_is_known_before_the_mirror_has_it(bench: Bench) -> None:
    bench.make("m")
    bench.report(READY, "m")
    bench.look(0.0)
    bench.report(FAILED, "m")
    bench.look(10.0, 10.0)
    assert bench.reason("m") == "NotFound"
    assert (bench.written("ok"), bench.written("conflict")) == (2, 0)
    assert bench.models.told == [("m", "Normal", "AllNodesReady"), ("m", "Warning", "NotFound")]


def test_nothing_is_concluded_before_everything_was_listed(bench: Bench) -> None:
    bench.make("m")
    for mirror in (bench.models, bench.nodes, bench.caches):
        mirror.listed_at = None
        bench.look(10.0)
        mirror.listed_at = 0.0
        assert bench.status("m") == {}
    bench.look(10.0)
    assert bench.reason("m") == "NoNodesSelected"


def test_progress_waits_longer_the_more_agents_get_to_see_it(bench: Bench) -> None:
    """One model and 50,000 NodeCaches: 10 seconds; but a change of state is told at once."""
    bench.make("m")
    for node in ("p1", "p2", "p3"):
        bench.nodes.objects = {**bench.nodes.objects, node: {"labels": {}}}
        bench.report({"state": "Pending"}, "m", node=node)
    crowd: dict[str, Object] = {f"other-{number}": {"reports": {}} for number in range(50_000)}
    bench.caches.objects = {**crowd, **bench.caches.objects}
    bench.look(0.0)
    assert bench.status("m")["readyNodes"] == "0/3"
    bench.report(READY, "m", node="p1")
    bench.look(9.0)
    assert bench.status("m")["readyNodes"] == "0/3"
    bench.look(2.0)
    assert bench.status("m")["readyNodes"] == "1/3"
    bench.report(FAILED, "m", node="p2")
    bench.look(2.0)
    assert bench.reason("m") == "Progressing"  # at most once in three seconds all the same
    bench.look(1.5)
    assert bench.reason("m") == "NotFound"


def test_an_object_that_is_gone_is_forgotten(bench: Bench) -> None:
    bench.make("m1", "m2")
    bench.report(READY, "m1", "m2")
    bench.client.delete(CACHED_MODELS, "m1")
    bench.look(0.0)
    assert bench.reason("m2") == "AllNodesReady"
    bench.models.objects = {"m2": bench.models.objects["m2"]}
    bench.look(1.0)
    assert bench.writer.counts.keys() == {"m2"}


def test_a_status_that_somebody_spoiled_is_put_right(bench: Bench) -> None:
    bench.make("m")
    bench.report(READY, "m")
    bench.look(0.0)
    spoiled = {"nodes": {"ready": 7}, "conditions": []}
    bench.client.patch(CACHED_MODELS, "m", {"status": spoiled}, subresource="status")
    bench.see("m")
    bench.look(10.0)
    assert bench.reason("m") == "AllNodesReady"
    assert bench.status("m")["nodes"]["ready"] == 1


def test_what_is_not_known_any_more_is_taken_off(bench: Bench) -> None:
    bench.make("m")
    bench.report(READY, "m")
    bench.look(0.0)
    assert bench.status("m")["size"] == "100"
    bench.caches.objects = {}
    bench.look(10.0)
    assert not {"size", "bytes", "revision"} & bench.status("m").keys()


def test_an_object_that_is_always_refused_holds_no_other_up(
    bench: Bench, cluster: ControlPlane
) -> None:
    """Refused by the schema: another has tightened it meanwhile."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/cachedmodels.modelcache.dev"
    bench.make("m1", "m2")
    bench.report(READY, "m1")
    crd = cluster.api(path)
    try:
        schema = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/size"
        patch = [{"op": "add", "path": f"{schema}/maxLength", "value": 1}]
        cluster.api(path, "PATCH", patch, "json-patch+json")
        _until_refused(bench)
        bench.look(10.0)
        assert bench.reason("m2") == "Progressing"
        assert bench.reason("m1") is None
        bench.look(30.0)
        assert bench.written("error") == 1
    finally:
        now = cluster.api(path)
        cluster.api(path, "PUT", {**now, "spec": crd["spec"]})


def _until_refused(bench: Bench) -> None:
    def refused() -> bool:
        try:
            bench.client.patch(
                CACHED_MODELS, "m1", {"status": {"size": "15Gi"}}, subresource="status"
            )
        except ClusterError as error:
            return error.status == 422
        return False

    eventually(refused)
    bench.see("m1", "m2")
